"""Activation checkpointing: the same numbers from fewer bytes, in training only."""

import contextlib

import pytest
import torch

from stu_pipeline.networks.blocks import ResidualBlock
from stu_pipeline.networks.stunet import STUNet

STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2], [1, 1, 1], [1, 1, 1]]
# The deepest map has 64 voxels: below that, PyTorch 2.13 computes wrong bf16 gradients on the CPU (decision 0007).
PATCH = (8, 32, 32)


def build(*, conv_op="3d", deep_supervision=True, is_checkpointing=False):
    torch.manual_seed(0)
    strides = STRIDES if conv_op == "3d" else [stride[1:] for stride in STRIDES]
    network = STUNet(2, 3, strides, [4, 8, 8, 12, 12, 12], [1, 2, 1, 1, 1, 2], conv_op, deep_supervision)
    network.apply(network.initialize)
    network.set_activation_checkpointing(is_checkpointing)
    return network


def make_image(conv_op="3d"):
    torch.manual_seed(1)
    return torch.randn(2, 2, *(PATCH if conv_op == "3d" else (64, 64)))


def step(network, image, *, bf16=False):
    """Return outputs and gradients of one forward and backward pass."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else contextlib.nullcontext():
        outputs = network(image)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum(output.float().square().mean() for output in outputs).backward()
    gradients = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    return [output.detach() for output in outputs], gradients


@contextlib.contextmanager
def count_kept(network):
    """Yield a list that holds the bytes kept for the backward pass once the block is left.

    Checkpointing keeps the inputs of its blocks outside of autograd's saved tensors, so both are counted.
    """
    kept, total = {}, []

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    hooks = [block.register_forward_pre_hook(lambda _, inputs: (keep(inputs[0]), None)[1]) for block in blocks]
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield total
    for hook in hooks:
        hook.remove()
    total.append(sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("conv_op", ["3d", "2d"])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_outputs_and_gradients_are_the_same_with_and_without(conv_op, deep_supervision, bf16):
    image = make_image(conv_op)
    results = [
        step(build(conv_op=conv_op, deep_supervision=deep_supervision, is_checkpointing=is_on), image, bf16=bf16)
        for is_on in (False, True)
    ]
    (outputs, gradients), (other_outputs, other_gradients) = results
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, other_outputs, strict=True))
    assert set(gradients) == set(other_gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, rtol=0, atol=1e-6)


def test_checkpointing_keeps_less_than_half_of_the_bytes():
    image = make_image()
    kept = []
    for is_on in (False, True):
        network = build(is_checkpointing=is_on)
        with count_kept(network) as total:
            network(image)
        kept += total
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("how", ["evaluation", "no_grad"])
def test_only_a_training_recomputes(how):
    network = build(is_checkpointing=True)
    calls = []
    network.conv_blocks_context[0][0].register_forward_pre_hook(lambda *_: calls.append(1))
    if how == "evaluation":
        network.eval()
        sum(output.mean() for output in network(make_image())).backward()
    else:
        with torch.no_grad():
            network(make_image())
    assert len(calls) == 1
    step(network.train(), make_image())
    assert len(calls) == 3


def test_the_state_dict_does_not_know_about_it():
    with torch.device("meta"):
        keys = [list(build(is_checkpointing=is_on).state_dict()) for is_on in (False, True)]
    assert keys[0] == keys[1]


def test_it_can_be_switched_off_again():
    network = build(is_checkpointing=True)
    with count_kept(network) as with_it:
        network(make_image())
    network.set_activation_checkpointing(False)
    with count_kept(network) as without:
        network(make_image())
    assert without[0] > with_it[0]


@pytest.mark.slow
def test_compiling_captures_one_graph_that_recomputes():
    network = build(is_checkpointing=True)
    expected, gradients = step(build(), make_image())
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    outputs = compiled(make_image())
    sum(output.square().mean() for output in outputs).backward()
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-4, atol=1e-6)
