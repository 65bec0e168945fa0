"""Who this process is, and what is exchanged between two of them (gloo, on the CPU)."""

from __future__ import annotations

import pytest
import torch

from stu_pipeline.errors import UsageError
from stu_pipeline.log import ignore_events
from stu_pipeline.training.parallel.launch import run_ranks
from stu_pipeline.training.parallel.ranks import LostRankError, Ranks, find_ranks, is_lost_rank, open_ranks
from stu_pipeline.training.parallel.reduce import (
    agree_max,
    count_ranks,
    gather_objects,
    share_from_main,
    sum_over_ranks,
    wait_for_ranks,
)
from tests.unit.training.parallel import rank_jobs

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}


def run_two(function, config=None, **options):
    return run_ranks(function, config, num_ranks=2, device_type="cpu", listen=ignore_events, **options)


def test_what_torchrun_says_is_understood():
    ranks = find_ranks(TORCHRUN, device_type="cuda")
    assert ranks == Ranks(rank=5, local_rank=1, world_size=8, backend="nccl", local_world_size=4)
    assert not ranks.is_main and not ranks.is_alone
    assert find_ranks(TORCHRUN, device_type="cpu").backend == "gloo"
    assert find_ranks({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}, device_type="cpu").is_main


@pytest.mark.parametrize(
    "variables", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}]
)
def test_without_others_a_process_is_alone(variables):
    ranks = find_ranks(variables, device_type="cpu")
    assert ranks.is_alone and ranks.is_main


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_missing_variable_is_named(name):
    with pytest.raises(UsageError, match=rf"\b{name} not set") as caught:
        find_ranks({key: value for key, value in TORCHRUN.items() if key != name}, device_type="cpu")
    assert "torchrun" in caught.value.hint


@pytest.mark.parametrize("change", [{"RANK": "8"}, {"LOCAL_RANK": "4"}, {"RANK": "first"}, {"WORLD_SIZE": "-2"}])
def test_numbers_that_make_no_sense_are_refused(change):
    with pytest.raises(UsageError, match=r"makes no sense|expected a whole number"):
        find_ranks({**TORCHRUN, **change}, device_type="cpu")


def test_slurm_tasks_without_torchrun_are_refused():
    with pytest.raises(UsageError, match="4 Slurm tasks were started") as caught:
        find_ranks({"SLURM_STEP_NUM_TASKS": "4"}, device_type="cpu")
    assert "torchrun" in caught.value.hint
    assert find_ranks({**TORCHRUN, "SLURM_STEP_NUM_TASKS": "4"}, device_type="cpu").world_size == 8


def test_mps_has_no_ranks():
    with pytest.raises(UsageError, match="MPS"):
        find_ranks(TORCHRUN, device_type="mps")


def test_a_process_alone_exchanges_nothing():
    with open_ranks(Ranks(), torch.device("cpu")) as device:
        values = torch.tensor([1.0, 2.0], requires_grad=True)
        assert device == torch.device("cpu") and count_ranks() == 1
        assert sum_over_ranks(values).tolist() == agree_max(values).tolist() == [1.0, 2.0]
        assert not sum_over_ranks(values).requires_grad
        assert gather_objects("a") == ["a"] and share_from_main("a") == "a"
        wait_for_ranks()
        assert not torch.distributed.is_initialized()


def test_two_ranks_sum_agree_gather_and_share():
    found, num_after, is_open_after = run_two(rank_jobs.exchange)
    for rank, answer in enumerate(found):
        assert answer == {
            "device": "cpu",
            "count": 2,
            "sum": [1.0, 20.0],
            "own": [float(rank), 10.0],
            "max": [1.0, 10.0],
            "gathered": [{"rank": 0}, {"rank": 1}],
            "shared": "from 0",
        }
    assert (num_after, is_open_after) == (1, False)


@pytest.mark.integration
@pytest.mark.parametrize(("how", "timeout_s"), [("leaves", 60.0), ("is stuck", 3.0)])
def test_a_lost_rank_is_a_clear_error_and_the_group_is_taken_down(how, timeout_s):
    message, is_open = run_two(rank_jobs.lose_rank_one, {"how": how, "timeout_s": timeout_s})
    assert message.startswith("rank 0 of 2 lost the others: ") and message.isascii() and ".cc" not in message
    assert is_open is False


def test_other_errors_pass_as_they_are():
    assert run_two(rank_jobs.raise_inside) == "RuntimeError"


def test_errors_of_the_connection_are_told_from_others():
    assert is_lost_rank(torch.distributed.DistBackendError("NCCL error"))
    assert is_lost_rank(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:1"))
    assert not is_lost_rank(RuntimeError("gloo: no such device"))
    assert not is_lost_rank(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost_rank(ValueError("gloo: timed out"))
    assert LostRankError("x").exit_code == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_rank_without_a_gpu_is_refused():
    ranks = find_ranks(TORCHRUN, device_type="cuda")
    with (
        pytest.raises(UsageError, match="process 1 of this node has no GPU, 0 are visible"),
        open_ranks(ranks, torch.device("cuda")),
    ):
        pass
