"""What only a CUDA device can show: steps in every precision, what checkpointing saves, forecast against measured."""

import functools

import pytest
import torch

from stu_pipeline.training.loop.batch import Batch
from tests.gpu.marks import DEVICE, pytestmark  # noqa: F401
from tests.gpu.material import LEVELS, build_network, build_step

CUBE = (128, 128, 128)
# The forecast rests on published numbers of another GPU; beyond this it would mislead. An allocator's pool, cuDNN's
# workspaces and the driver differ between GPUs.
FORECAST_TOLERANCE = 0.25


@functools.cache
def probe(scale, **changes):
    """Measure one row, eagerly unless told otherwise."""
    from stu_pipeline.training.probing.probe import probe_configuration
    from tests.bench.measure_gpu import CONFIGURATION, Row, build_plan, describe_dataset

    row = Row(scale=scale, **({"patch": CUBE} | changes))
    return probe_configuration(
        build_plan(row),
        CONFIGURATION,
        device=DEVICE.type,
        precision=row.precision,
        compile="on" if row.compiled else "off",
        dataset_json=describe_dataset(row),
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_step_of_s_runs_in_every_precision(precision):
    result = probe("S", precision=precision)
    assert not result.is_out_of_memory
    assert result.step_s > 0
    assert result.peak_gib >= result.tensors_gib > 0.5
    assert result.precision == precision


def test_a_compiled_step_with_checkpointing_runs():
    result = probe("S", patch=(64, 64, 64), compiled=True, checkpointing=True)
    assert not result.is_out_of_memory and result.step_s > 0
    assert result.is_compiled, result.note


@pytest.mark.parametrize("scale", ["S", "B"])
def test_checkpointing_lowers_the_peak_and_costs_less_than_half_a_step(scale):
    plain, recomputing = probe(scale), probe(scale, checkpointing=True)
    assert recomputing.tensors_gib < 0.75 * plain.tensors_gib
    assert recomputing.step_s < 1.5 * plain.step_s


@pytest.mark.parametrize("scale", ["S", "B", "L"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_forecast_is_near_what_nvidia_smi_would_show(scale, checkpointing):
    from stu_pipeline.networks.cost import count_parameters
    from stu_pipeline.networks.scales import SCALES
    from stu_pipeline.planning.memory import count_elements, read_memory_model
    from tests.bench.measure_gpu import choose_strides

    spec = SCALES[scale]
    forecast = read_memory_model().forecast_gib(
        num_elements=count_elements(
            scale, CUBE, choose_strides(CUBE), num_classes=3, activation_checkpointing=checkpointing
        ),
        num_parameters=count_parameters(1, 3, spec.features_per_stage, spec.n_blocks_per_stage),
        patch_voxels=CUBE,
        batch=2,
        num_classes=3,
    )
    measured = probe(scale, checkpointing=checkpointing).peak_gib
    assert forecast == pytest.approx(measured, rel=FORECAST_TOLERANCE)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("is_on", [False, True])
def test_gradients_of_parts_are_those_of_the_whole_batch(precision, batch_dice, is_on):
    """One step of S with five samples in parts of two, against the same step at once."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(5, 1, 64, 64, 64, generator=generator)
    targets = [torch.randint(0, 3, (5, 1, *[64 // step] * 3), generator=generator) for step in LEVELS]
    batch = Batch(data=data.to(DEVICE), targets=[target.to(DEVICE) for target in targets])
    losses, gradients = [], []
    for micro_batch in (5, 2):
        network = build_network(DEVICE)
        network.set_activation_checkpointing(is_on)
        step = build_step(network, precision=precision, micro_batch=micro_batch, batch_dice=batch_dice)
        losses.append(float(step._add_gradients(batch.split(micro_batch))))
        found = [weight.grad.flatten().double() for weight in network.parameters() if weight.grad is not None]
        gradients.append(torch.cat(found))
    assert losses[0] == pytest.approx(losses[1], abs=0.02 if precision == "bf16" else 1e-4)
    # bf16 keeps 8 bits of every activation; convolution algorithms differ between batch sizes.
    tolerance = 0.05 if precision == "bf16" else 0.005
    assert (gradients[0] - gradients[1]).norm() < tolerance * gradients[0].norm()


def test_out_of_memory_is_a_result_and_the_next_step_runs():
    result = probe("B", patch=(512, 512, 512), batch=8)
    assert result.is_out_of_memory and result.peak_gib is None
    assert not probe("S", patch=(64, 64, 64)).is_out_of_memory
