import pytest
import torch

from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.training.loop.compilation import choose_compilation, compile_network
from stu_pipeline.training.loop.layout import LAYOUTS, apply_layout, choose_layout

CPU = torch.device("cpu")


@pytest.fixture
def network():
    strides = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
    return STUNet(1, 2, strides, [2, 2, 2, 2, 2, 2], 1, deep_supervision=True)


def test_the_layout_is_one_of_two_and_leaves_the_network_as_it_was(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    name = choose_layout(network, num_channels=1, patch=(8, 8, 8), strides=(4, 4, 4), device=CPU, precision="fp32")
    assert name in LAYOUTS
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    assert all(weight.grad is None and weight.is_contiguous() for weight in network.parameters())


def test_flat_networks_are_not_timed(network):
    options = {"num_channels": 1, "strides": (4, 4), "device": CPU, "precision": "fp32"}
    assert choose_layout(network, patch=(8, 8), **options) == "contiguous"


def test_channels_last_moves_the_weights_and_not_the_result(network):
    data = torch.randn(1, 1, 8, 8, 8)
    plain = network(data)[0]
    apply_layout(network, "channels_last")
    weight = network.conv_blocks_context[0][0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.allclose(plain, network(data.contiguous(memory_format=torch.channels_last_3d))[0], atol=1e-5)


@pytest.mark.parametrize(("wanted", "device", "expected"), [
    ("auto", "cpu", False), ("on", "cpu", True), ("off", "cuda", False),
])  # fmt: skip
def test_compilation_is_on_by_itself_only_on_a_gpu(wanted, device, expected):
    assert choose_compilation(wanted, torch.device(device)) is expected


def test_a_compiler_that_fails_costs_one_line(network):
    def compile_module(module):
        class Broken(torch.nn.Module):
            def forward(self, data):
                raise RuntimeError("Python.h: no such file\nand a page of C++")

        return Broken()

    options = {"num_channels": 1, "strides": (4, 4, 4), "device": CPU, "precision": "fp32"}
    found, problem = compile_network(network, **options, compile_module=compile_module)
    assert found is network
    assert problem == "torch.compile does not work here, training goes on without it: Python.h: no such file"


def test_a_compiler_that_works_is_used_and_leaves_no_gradient(network):
    options = {"num_channels": 1, "strides": (4, 4, 4), "device": CPU, "precision": "bf16"}
    compiled, problem = compile_network(network, **options, compile_module=lambda m: torch.compile(m, backend="eager"))
    assert problem == "" and compiled is not network
    assert all(weight.grad is None for weight in network.parameters())
