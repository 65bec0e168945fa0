"""How memory is measured, and which errors mean that there is none."""

import mmap

import pytest
import torch

from stu_pipeline.nnunet.memory_meter import is_out_of_memory, open_meter


def test_the_meter_of_the_cpu_sees_what_a_process_grows_by():
    meter = open_meter(torch.device("cpu"))
    # A mapping of its own: an allocator could hand out memory that the process holds already.
    with mmap.mmap(-1, 64 * 2**20) as held:
        for _ in range(64):
            held.write(b"x" * 2**20)
    assert 60 * 2**20 < meter.read().peak < 160 * 2**20


def test_errors_that_mean_no_memory_are_told_from_others():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))
