"""How a level is walked through, and what its gradient's memory looks like."""

import pytest
import torch

from stu_pipeline.training.loss.level import (
    DEVICE_CHUNK,
    choose_dtype,
    choose_sum_dtype,
    make_empty_gradient,
    split_chunks,
)


@pytest.mark.parametrize(
    "shape", [(1, 2, 1), (3, 5, 7), (2, 105, 5000), (700, 3, 300), (2, 300_000, 3), (5, 3, 2**18 // 3 + 1)]
)
def test_chunks_hold_every_voxel_once(shape):
    seen = torch.zeros(shape[0], shape[2])
    for rows, columns in split_chunks(torch.empty(1).expand(shape)):
        seen[rows, columns] += 1
    assert (seen == 1).all()


def test_many_small_samples_share_a_chunk():
    assert len(list(split_chunks(torch.empty(64, 4, 16)))) == 1


@pytest.mark.parametrize(("shape", "num_chunks"), [((2, 3, 128**3), 1), ((2, 105, 128**3), 8)])
def test_a_gpu_gets_few_chunks_of_bounded_size(shape, num_chunks):
    chunks = list(split_chunks(torch.empty(shape, device="meta")))
    assert len(chunks) == num_chunks
    assert all((columns.stop - columns.start) * shape[1] <= DEVICE_CHUNK for _, columns in chunks)


@pytest.mark.parametrize("spatial", [(4, 5), (4, 5, 6)])
def test_a_gradient_takes_the_layout_of_its_logits(spatial):
    last = torch.channels_last_3d if len(spatial) == 3 else torch.channels_last
    plain = torch.empty(2, 3, *spatial)
    for logits in (plain, plain.to(memory_format=last)):
        gradient = make_empty_gradient(logits)
        assert gradient.stride() == logits.stride()
        assert gradient.flatten(2).data_ptr() == gradient.data_ptr()


def test_a_gradient_of_logits_in_an_odd_layout_is_plain():
    logits = torch.empty(6, 5, 4, 3, 2).permute(4, 3, 2, 1, 0)
    assert make_empty_gradient(logits).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_voxels_are_computed_in_float32(dtype):
    assert choose_dtype(torch.empty(1, dtype=dtype)) == torch.float32


def test_sums_are_float64_where_the_device_has_it():
    assert choose_sum_dtype(torch.device("cpu")) == torch.float64
    assert choose_sum_dtype(torch.device("mps")) == torch.float32
