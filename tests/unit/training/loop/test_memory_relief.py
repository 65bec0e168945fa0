"""Memory that runs out in the middle of a training: the same step again, with less memory at once."""

import pytest
import torch

from stu_pipeline.errors import MemoryLimitError
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.nnunet.optimizer import build_optimizer
from stu_pipeline.plan_execution import Execution
from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.loop.memory_relief import MemoryRelief
from stu_pipeline.training.loop.step import TrainingStep
from stu_pipeline.training.loss.segmentation import build_loss

STRIDES = [[1, 1], [2, 2], [2, 2], [1, 1], [1, 1], [1, 1]]
PARTS = {"batch": 4, "world_size": 1}


class LimitedMemory:
    """Lets the forward pass of a network fail as CUDA does when more samples come than fit at once."""

    def __init__(self, network, *, plain, checkpointing):
        self.limits, self.is_checkpointing = {False: plain, True: checkpointing}, False
        self.network = network
        network.register_forward_pre_hook(self._check)
        switch = network.set_activation_checkpointing

        def note(is_on):
            self.is_checkpointing = is_on
            switch(is_on)

        network.set_activation_checkpointing = note

    def _check(self, module, given):
        if given[0].shape[0] > self.limits[self.is_checkpointing]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nand more words")


def build_network():
    torch.manual_seed(0)
    network = STUNet(1, 3, STRIDES, [4, 4, 8, 8, 8, 8], [1] * 6, "2d", deep_supervision=True)
    network.apply(network.initialize)
    return network.train()


def make_batch():
    generator = torch.Generator().manual_seed(0)
    targets = [torch.randint(0, 3, (4, 1, size, size), generator=generator) for size in (16, 8, 4, 4, 4)]
    return Batch(data=torch.randn(4, 1, 16, 16, generator=generator), targets=targets)


def build_step(network, *, micro_batch=4):
    optimizer = build_optimizer(network, learning_rate=0.01, weight_decay=3e-5)
    loss = build_loss(regions=False, batch_dice=True, num_levels=5)
    return TrainingStep(network, optimizer, loss, precision="fp32", micro_batch=micro_batch)


def build_relief(network, execution, *, heard=None, noted=None, **changes):
    return MemoryRelief(
        network,
        execution,
        listen=(heard if heard is not None else []).append,
        note_change=(noted if noted is not None else []).append,
        **PARTS | changes,
    )


def join(network):
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


WHOLE = Execution(micro_batch=4, batch_dice_scope="effective batch")


def test_a_step_that_fits_changes_nothing():
    network, heard, noted = build_network(), [], []
    relief = build_relief(network, WHOLE, heard=heard, noted=noted)
    assert float(relief.run(build_step(network), make_batch()).is_fault) == 0
    assert (relief.execution, heard, noted) == (WHOLE, [], [])


def test_the_ladder_is_walked_down_until_the_same_step_fits_and_every_rung_is_said_and_recorded():
    network, heard, noted = build_network(), [], []
    LimitedMemory(network, plain=0, checkpointing=1)
    relief, step = build_relief(network, WHOLE, heard=heard, noted=noted), build_step(network)
    assert float(relief.run(step, make_batch()).is_fault) == 0
    rungs = [(rung.micro_batch, rung.activation_checkpointing, rung.batch_dice_scope) for rung in noted]
    assert rungs == [(size, True, "effective batch") for size in (4, 2, 1)]
    assert len(heard) == 3 and all(notice.is_warning and "stay the same" in notice.text for notice in heard)
    assert relief.execution == noted[-1] and step.micro_batch == 1
    heard.clear()
    relief.run(step, make_batch())
    assert heard == []


def test_the_weights_after_it_are_those_of_a_step_that_always_fitted():
    plain, limited = build_network(), build_network()
    build_relief(plain, WHOLE).run(build_step(plain), make_batch())
    LimitedMemory(limited, plain=1, checkpointing=2)
    build_relief(limited, WHOLE).run(build_step(limited), make_batch())
    start = join(build_network())
    # float32 rounding, amplified by instance normalisation over a few values.
    assert (join(plain) - join(limited)).norm() < 5e-3 * (join(plain) - start).norm()


def test_memory_that_runs_out_in_the_second_part_leaves_no_trace_of_the_first():
    expected, network = build_network(), build_network()
    smaller = Execution(micro_batch=1, activation_checkpointing=True, batch_dice_scope="effective batch")
    build_relief(expected, smaller).run(build_step(expected), make_batch())
    calls = []

    def fail_once(*_):
        calls.append(1)
        # Parts of two: two passes for the sums, then the second part that is trained on.
        if len(calls) == 4:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    network.register_forward_pre_hook(fail_once)
    halves = Execution(micro_batch=2, activation_checkpointing=True, batch_dice_scope="effective batch")
    relief = build_relief(network, halves)
    relief.run(build_step(network), make_batch())
    assert relief.execution == smaller
    assert torch.equal(join(network), join(expected))


def test_the_foot_of_the_ladder_is_a_memory_error_with_the_words_of_the_device():
    network = build_network()
    LimitedMemory(network, plain=0, checkpointing=0)
    with pytest.raises(
        MemoryLimitError, match=r"memory ran out: CUDA out of memory\. Tried to allocate 1 GiB$"
    ) as caught:
        build_relief(network, WHOLE).run(build_step(network), make_batch())
    assert caught.value.exit_code == 6 and caught.value.hint


def test_several_ranks_do_not_step_down_alone():
    network, noted = build_network(), []
    LimitedMemory(network, plain=0, checkpointing=4)
    with pytest.raises(MemoryLimitError):
        build_relief(network, WHOLE, noted=noted, world_size=2).run(build_step(network), make_batch())
    assert noted == []


def test_other_errors_are_not_taken_for_memory():
    network, noted = build_network(), []

    def fail(*_):
        raise RuntimeError("shapes do not match")

    network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        build_relief(network, WHOLE, noted=noted).run(build_step(network), make_batch())
    assert noted == []


def test_a_plan_with_checkpointing_begins_with_it():
    network = build_network()
    memory = LimitedMemory(network, plain=0, checkpointing=4)
    build_relief(network, Execution(micro_batch=4, activation_checkpointing=True))
    assert memory.is_checkpointing


def test_a_network_that_cannot_checkpoint_takes_smaller_parts():
    network = torch.nn.Conv2d(1, 3, 1)
    noted = []

    def check(module, given):
        if given[0].shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    network.register_forward_pre_hook(check)
    optimizer = build_optimizer(network, learning_rate=0.01, weight_decay=0.0)
    step = TrainingStep(
        network, optimizer, build_loss(regions=False, batch_dice=False), precision="fp32", micro_batch=4
    )
    batch = make_batch()
    single = Batch(data=batch.data, targets=batch.targets[:1])
    build_relief(network, Execution(micro_batch=4), noted=noted).run(step, single)
    assert [rung.micro_batch for rung in noted] == [2, 1]
