"""The network computes what the published one computes (tests/fixtures/README.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from stu_pipeline.networks.scales import SCALES
from stu_pipeline.networks.stunet import STUNet

FIXTURES = Path(__file__).parents[2] / "fixtures"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Golden:
    """One reference run: its file, network and input, and its own rounding error per level (float64 minus file)."""

    file: str
    num_classes: int
    strides: list[list[int]]
    input_shape: tuple[int, ...]
    rounding: tuple[float, ...]


ISOTROPIC = Golden(
    file="stunet_small_golden.npz",
    num_classes=5,
    strides=[[1, 1, 1], *[[2, 2, 2]] * 4, [1, 1, 2]],
    input_shape=(1, 1, 32, 32, 64),
    rounding=(4.1e-6, 2.4e-5, 2.1e-5, 7.8e-5, 3.2e-4),
)
ANISOTROPIC = Golden(
    file="stunet_small_anisotropic_golden.npz",
    num_classes=3,
    strides=[[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * 3, [1, 1, 1]],
    input_shape=(2, 2, 16, 48, 48),
    rounding=(7.1e-4, 6.4e-3, 1.9e-3, 3.2e-3, 9.6e-3),
)
BOTH = pytest.mark.parametrize("golden", [ISOTROPIC, ANISOTROPIC], ids=["isotropic", "anisotropic"])


@pytest.fixture
def two_threads() -> Iterator[None]:
    """PyTorch chooses other convolution kernels with a single thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def build_network(golden: Golden, dtype: torch.dtype = torch.float64) -> STUNet:
    spec = SCALES["S"]
    network = STUNet(
        golden.input_shape[1],
        golden.num_classes,
        golden.strides,
        spec.features_per_stage,
        spec.n_blocks_per_stage,
        deep_supervision=True,
    )
    weights = {
        key: make_weight(key, index, tuple(weight.shape))
        for index, (key, weight) in enumerate(network.state_dict().items())
    }
    network.load_state_dict(weights)
    return network.to(dtype).eval()


def make_weight(key: str, index: int, shape: tuple[int, ...]) -> torch.Tensor:
    wave = np.sin(0.37 * np.arange(np.prod(shape)) + index).reshape(shape)
    if len(shape) == 5:
        weight = wave * np.sqrt(2 / np.prod(shape[1:]))
    elif key.endswith(("norm1.weight", "norm2.weight")):
        weight = 1 + 0.1 * wave
    else:
        weight = 0.1 * wave
    return torch.from_numpy(weight.astype(np.float32))


def measure_errors(golden: Golden, network: STUNet, dtype: torch.dtype) -> list[float]:
    voxel = np.arange(np.prod(golden.input_shape))
    image = np.sin(0.011 * voxel + 3 * np.cos(0.0007 * voxel)).reshape(golden.input_shape).astype(np.float32)
    with torch.no_grad():
        outputs = network(torch.from_numpy(image).to(dtype))
    with np.load(FIXTURES / golden.file) as reference:
        return [float(np.abs(logits.numpy() - reference[f"logits_{i}"]).max()) for i, logits in enumerate(outputs)]


@BOTH
def test_float64_outputs_differ_from_the_golden_file_by_its_own_rounding_only(golden: Golden) -> None:
    errors = measure_errors(golden, build_network(golden), torch.float64)

    assert all(error <= limit for error, limit in zip(errors, golden.rounding, strict=True)), errors


def test_isotropic_golden_outputs_are_met_within_the_tolerance() -> None:
    errors = measure_errors(ISOTROPIC, build_network(ISOTROPIC, torch.float32), torch.float32)

    assert max(errors[:3]) <= TOLERANCE, errors


def test_anisotropic_golden_outputs_are_met_within_the_tolerance_at_every_level(two_threads: None) -> None:
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("the golden file holds the rounding of oneDNN's AVX-512 kernels; the float64 test covers this CPU")

    errors = measure_errors(ANISOTROPIC, build_network(ANISOTROPIC, torch.float32), torch.float32)

    assert max(errors) <= TOLERANCE, errors


@pytest.mark.parametrize(("name", "value"), [("eps", 2e-5), ("negative_slope", 0.0105)])
@BOTH
def test_a_slightly_wrong_constant_is_noticed(golden: Golden, name: str, value: float) -> None:
    network = build_network(golden)
    for module in network.modules():
        if hasattr(module, name):
            setattr(module, name, value)

    errors = measure_errors(golden, network, torch.float64)

    assert all(error > limit for error, limit in zip(errors, golden.rounding, strict=True)), errors
