"""The fastest form of a network computes what the network computes."""

import copy
import doctest
import threading

import pytest
import torch
from torch import nn

from stu_pipeline.errors import UsageError
from stu_pipeline.inference import execution
from stu_pipeline.inference.execution import cpu_computes_bf16, divide_batch, prepare_network
from stu_pipeline.inference.fast_layers import OneDnnConv, SampleNorm
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.prediction.device import choose_autocast

CPU = torch.device("cpu")
PATCH = (16, 16, 24)


class SmallUNet(nn.Module):
    """One level down and up; the same norm in two places, and a transposed convolution."""

    def __init__(self, num_axes=3, *, affine=True, mode="zeros"):
        super().__init__()
        conv, up = (nn.Conv3d, nn.ConvTranspose3d) if num_axes == 3 else (nn.Conv2d, nn.ConvTranspose2d)
        norm = nn.InstanceNorm3d if num_axes == 3 else nn.InstanceNorm2d
        self.first = nn.Sequential(conv(2, 8, 3, padding=1, padding_mode=mode), norm(8, affine=affine), nn.LeakyReLU())
        self.down = nn.Sequential(conv(8, 8, 3, 2, 1), norm(8, affine=affine), nn.LeakyReLU(inplace=True))
        self.up = up(8, 8, 2, 2)
        self.last = conv(16, 3, 1)
        self.register_buffer("shift", torch.ones(1))

    def forward(self, x):
        skip = self.first(x)
        return self.last(torch.cat((self.up(self.down(skip)), skip), 1)) + self.shift


def build_stunet():
    torch.manual_seed(3)
    network = STUNet(
        2, 3, [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 1, 1], [1, 1, 1], [1, 1, 1]], [8, 8, 16, 16, 16, 16], 1
    )
    with torch.no_grad():  # weights and biases of norms that matter
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def prepare(network, autocast=None, patch=PATCH):
    return prepare_network(network, device=CPU, autocast=autocast, patch_voxels=patch)


def distance(found, expected):
    """Largest difference as a share of the range of what is expected."""
    return float((found.float() - expected).abs().max() / (expected.max() - expected.min()))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 3])
def samples(request):
    torch.manual_seed(0)
    return torch.randn(request.param, 2, *PATCH) * 3 + 1


def test_float32_is_the_plain_network_up_to_rounding(samples):
    network = build_stunet()
    with torch.inference_mode():
        expected = network(samples)
        assert distance(prepare(network)(samples), expected) < 1e-5


def test_bf16_is_as_far_from_float32_as_autocast_is(samples):
    network = build_stunet()
    fast = prepare(network, torch.bfloat16)
    with torch.inference_mode():
        expected = network(samples)
        with torch.autocast("cpu", torch.bfloat16):
            found, usual = fast(samples), network(samples)
    assert found.dtype == torch.bfloat16
    assert distance(found, expected) < 1.5 * distance(usual, expected) + 0.005
    assert distance(found, expected) < 0.03


def test_outside_autocast_a_bf16_network_computes_in_float32(samples):
    network = build_stunet()
    with torch.inference_mode():
        found = prepare(network, torch.bfloat16)(samples)
        assert found.dtype == torch.float32
        assert distance(found, network(samples)) < 1e-5


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("num_axes", [2, 3])
def test_networks_of_other_makers_are_prepared_too(num_axes, autocast, affine):
    torch.manual_seed(1)
    network = SmallUNet(num_axes, affine=affine).eval()
    patch = (64, 48) if num_axes == 2 else PATCH
    x = torch.randn(3, 2, *patch)
    fast = prepare(network, autocast, patch)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
        found = fast(x)
    with torch.inference_mode():
        expected = network(x)
    assert distance(found, expected) < (1e-5 if autocast is None else 0.03)
    kinds = {type(module) for module in fast.modules()}
    assert {OneDnnConv, SampleNorm} <= kinds
    assert not kinds & {nn.Conv2d, nn.Conv3d, nn.InstanceNorm2d, nn.InstanceNorm3d}


def test_layers_that_compute_something_else_are_left_alone():
    torch.manual_seed(1)
    network = SmallUNet(mode="replicate")
    network.first[1] = nn.InstanceNorm3d(8, track_running_stats=True)
    network.down[0] = nn.Conv3d(8, 8, 3, 2, 1)
    network.eval()
    x = torch.randn(2, 2, *PATCH)
    fast = prepare(network)
    with torch.inference_mode():
        assert distance(fast(x), network(x)) < 1e-5
    assert isinstance(fast.in_float32.first[0], nn.Conv3d)
    assert isinstance(fast.in_float32.first[1], nn.InstanceNorm3d)


def test_the_network_given_is_not_changed():
    network = build_stunet()
    before = copy.deepcopy(network.state_dict())
    kinds = [type(module) for module in network.modules()]
    fast = prepare(network, torch.bfloat16)
    assert [type(module) for module in network.modules()] == kinds
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    assert fast.in_float32.state_dict().keys() == before.keys() == fast.in_bf16.state_dict().keys()


def test_float32_weights_are_shared_and_norms_stay_float32_in_bf16():
    network = build_stunet()
    fast = prepare(network, torch.bfloat16)
    shared = {key: tensor.data_ptr() for key, tensor in network.state_dict().items()}
    assert {key: tensor.data_ptr() for key, tensor in fast.in_float32.state_dict().items()} == shared
    types = {key: tensor.dtype for key, tensor in fast.in_bf16.state_dict().items()}
    assert types["conv_blocks_context.0.0.norm1.weight"] == torch.float32
    assert types["conv_blocks_context.0.0.conv1.weight"] == torch.bfloat16


def test_small_maps_in_channels_last_order_are_normalised_per_sample():
    torch.manual_seed(2)
    norm = nn.InstanceNorm3d(4, affine=True)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    for size in ((3, 3, 3), (12, 12, 12)):
        x = torch.randn(3, 4, *size) * torch.tensor([1.0, 5.0, 9.0])[:, None, None, None, None] + 2
        last = x.contiguous(memory_format=torch.channels_last_3d)
        assert torch.allclose(SampleNorm(norm)(last), norm(x), atol=1e-5)


def test_a_batch_is_divided_among_threads_and_keeps_its_order(two_threads):
    seen = set()

    class Watched(nn.Module):
        def forward(self, x):
            seen.add((threading.current_thread().name.split("_")[0], torch.get_num_threads(), len(x)))
            return x * 2

    x = torch.arange(5.0)[:, None, None, None, None].expand(5, 1, *PATCH)
    assert torch.equal(prepare(Watched())(x), x * 2)
    assert {(name, threads) for name, threads, _ in seen} == {("network", 1)}
    assert {size for _, _, size in seen} == {3, 2}
    assert torch.get_num_threads() == 2


def test_an_error_in_a_thread_reaches_the_caller(two_threads):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("not enough memory: you tried to allocate")

    with pytest.raises(RuntimeError, match="tried to allocate"):
        prepare(Broken())(torch.zeros(4, 1, *PATCH))


def test_threads_compute_in_the_mode_of_the_caller(two_threads):
    fast = prepare(build_stunet())
    x = torch.randn(2, 2, *PATCH)
    with torch.inference_mode():
        assert fast(x).is_inference()
    assert not fast(x).is_inference()
    assert not fast(x).requires_grad


def test_large_samples_go_one_by_one():
    sizes = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 64, 1)

        def forward(self, x):
            sizes.append(len(x))
            return self.conv(x)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        prepare(Watched(), patch=(32, 32, 32))(torch.zeros(3, 1, 32, 32, 32))
    finally:
        torch.set_num_threads(before)
    assert sizes == [1, 1, 1]


def test_on_a_gpu_the_network_stays_itself():
    network = build_stunet()
    device = torch.device("cuda")
    assert prepare_network(network, device=device, autocast=torch.float16, patch_voxels=PATCH) is network


@pytest.mark.parametrize(
    ("samples", "largest", "threads", "expected"),
    [
        (8, 2, 2, (2, 2)),
        (8, 1, 2, (2, 1)),
        (2, 4, 2, (2, 1)),
        (1, 4, 16, (1, 4)),
        (8, 4, 64, (8, 1)),
        (5, 9, 1, (1, 9)),
    ],
)
def test_a_batch_is_shared_evenly(samples, largest, threads, expected):
    assert divide_batch(samples, largest, threads) == expected


def test_auto_takes_bf16_where_the_cpu_computes_it_and_maps_are_large_enough():
    wanted = torch.bfloat16 if cpu_computes_bf16() else None
    assert choose_autocast("auto", CPU) == wanted
    assert choose_autocast("auto", torch.device("cuda")) == torch.float16
    assert choose_autocast("auto", torch.device("mps")) is None
    assert choose_autocast("bf16", CPU) == torch.bfloat16
    with pytest.raises(UsageError, match="needs a GPU"):
        choose_autocast("fp16", CPU)


def test_the_examples_in_the_module_hold():
    assert doctest.testmod(execution).failed == 0


class Pooling(nn.Module):
    """Averages, as the shortcuts of residual encoders do, then a layer that has no bfloat16 on the CPU, if asked."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3, padding=1)
        self.pool = nn.AvgPool3d(2)
        self.last = last or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.pool(self.conv(x)))


class OnlyFloat32(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise NotImplementedError("not implemented for 'BFloat16'")
        return x


@pytest.mark.parametrize("last", [None, OnlyFloat32()], ids=["pooled", "without bf16"])
def test_a_layer_that_has_no_bf16_is_computed_in_float32(last):
    network = Pooling(last).eval()
    x = torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = network(x)
    prepared = prepare_network(network, device=CPU, autocast=torch.bfloat16, patch_voxels=(8, 8, 8))
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = prepared(x).float()
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)
