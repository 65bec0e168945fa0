"""torch.compile on the GPU: it works, and computes the same."""

import pytest
import torch

from stu_pipeline.training.augmentation.pipeline import Augmenter
from stu_pipeline.training.loop.compilation import choose_compilation, compile_network
from tests.gpu.marks import DEVICE, pytestmark  # noqa: F401
from tests.gpu.material import STRIDES, build_network, build_step, make_samples, make_settings


def compile_s(precision):
    strides = tuple(torch.tensor(STRIDES).prod(0).tolist())
    network = build_network(DEVICE)
    return compile_network(network, num_channels=1, strides=strides, device=DEVICE, precision=precision)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_probe_says_that_it_works(precision):
    assert choose_compilation("auto", DEVICE)
    compiled, problem = compile_s(precision)
    assert problem == ""
    assert hasattr(compiled, "_orig_mod")
    assert all(weight.grad is None for weight in compiled.parameters())


@pytest.mark.parametrize("is_checkpointing", [False, True])
def test_compiled_steps_come_to_the_losses_of_eager_ones(is_checkpointing):
    settings = make_settings((64, 64, 64))
    batch = Augmenter(settings, DEVICE, is_augmenting=True)(make_samples(2, settings))
    losses = []
    for network in (build_network(DEVICE), compile_s("bf16")[0]):
        network.set_activation_checkpointing(is_checkpointing)
        step = build_step(network, precision="bf16", micro_batch=2)
        losses.append([float(step.run(batch).loss) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
