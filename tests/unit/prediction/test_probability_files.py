"""Probabilities written slab by slab are the whole array, in the image's order, and never half a file."""

from __future__ import annotations

import itertools
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stu_pipeline.datasets.volume import Grid
from stu_pipeline.errors import DataError, NonFiniteError, StorageError, UsageError
from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.prediction.writing import npz_file
from stu_pipeline.prediction.writing.probability_files import ENDINGS, ProbabilityTarget, ProbabilityWriter
from stu_pipeline.prediction.writing.zarr_file import read_probabilities, require_zarr

pytest.importorskip("zarr", reason="chunked probabilities need the extra `zarr`")

NAMES = ("background", "liver", "left kidney")
FULL, BOX = (23, 9, 11), ((2, 21), (0, 9), (3, 10))  # in the plan's axes


def make_case(*, backward=(0, 1, 2), box=BOX, full=FULL):
    cropped = tuple(high - low for low, high in box)
    case_grid = CaseGrid(
        network_shape=cropped, cropped_shape=cropped, full_shape=full, box=box, transpose_backward=backward
    )
    shape = tuple(full[axis] for axis in backward)
    return case_grid, Grid(shape=shape, spacing_mm=(3.0, 0.5, 0.7), origin=(1.0, -2.0, 3.0))


def make_probabilities(case_grid, *, seed=0):
    scores = torch.randn((len(NAMES), *case_grid.cropped_shape), generator=torch.Generator().manual_seed(seed))
    return torch.softmax(3 * scores, dim=0)


def place(probabilities, case_grid, *, is_regions=False):
    """The whole array on the image's grid, the simple way."""
    full = np.zeros((len(NAMES), *case_grid.full_shape), dtype=np.float32)
    full[0] = 0 if is_regions else 1
    full[(slice(None), *(slice(*ends) for ends in case_grid.box))] = probabilities
    return full.transpose(0, *(1 + axis for axis in case_grid.transpose_backward))


def cut(probabilities, axis, sizes):
    start = 0
    for size in itertools.cycle(sizes):
        part = probabilities.narrow(1 + axis, start, min(size, probabilities.shape[1 + axis] - start))
        yield Slab(start=start, axis=axis, scores=part)
        start += size
        if start >= probabilities.shape[1 + axis]:
            return


def write(target, case_grid, probabilities, *, axis=0, sizes=(4, 1, 7)):
    with ProbabilityWriter(target, case_grid) as writer:
        for slab in cut(probabilities, axis, sizes):
            writer.add(slab)
        return writer.finish()


def make_target(folder, grid, kind, **options):
    return ProbabilityTarget(path=folder / f"a{ENDINGS[kind]}", kind=kind, grid=grid, names=NAMES, **options)


@pytest.mark.parametrize("kind", ["npz", "zarr"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("backward", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_slabs_along_any_axis_make_the_whole_array(tmp_path, kind, axis, backward):
    case_grid, grid = make_case(backward=backward)
    probabilities = make_probabilities(case_grid)
    (path,) = write(make_target(tmp_path, grid, kind), case_grid, probabilities, axis=axis)
    expected = place(probabilities, case_grid)
    if kind == "npz":
        found = np.load(path)["probabilities"]
        assert found.dtype == np.float32 and np.array_equal(found, expected)
    else:
        assert np.abs(read_probabilities(path).array - expected).max() <= 0.5 / 65535 + 1e-7
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["npz", "zarr"])
@pytest.mark.parametrize(("full", "box"), [(FULL, BOX), ((60, 9, 11), ((2, 10), (0, 9), (3, 10)))])
def test_outside_the_crop_is_background_but_no_region(tmp_path, kind, full, box):
    case_grid, grid = make_case(full=full, box=box)
    for is_regions in (False, True):
        path, *_ = write(
            make_target(tmp_path, grid, kind, is_regions=is_regions), case_grid, make_probabilities(case_grid)
        )
        array = np.load(path)["probabilities"] if kind == "npz" else read_probabilities(path).array
        assert array[:, 0].max() == array[:, -1, 0, 0].max() == (0 if is_regions else 1)
        assert array[1:, 0].max() == 0


@pytest.mark.parametrize(("bits", "error"), [(8, 0.5 / 255), (16, 0.5 / 65535)])
def test_zarr_keeps_grid_names_and_the_promised_precision(tmp_path, bits, error):
    case_grid, grid = make_case()
    probabilities = make_probabilities(case_grid)
    (path,) = write(make_target(tmp_path, grid, "zarr", bits=bits), case_grid, probabilities)
    found = read_probabilities(path)
    assert found.grid == grid and found.names == NAMES and not found.is_regions
    off = np.abs(found.array - place(probabilities, case_grid)).max()
    assert error / 4 < off <= error + 1e-6
    one = read_probabilities(path, ["left kidney"])
    assert one.names == ("left kidney",) and np.array_equal(one.array[0], found.array[2])


def test_chunks_are_small_compressed_and_written_once(tmp_path):
    case_grid, grid = make_case(full=(40, 300, 150), box=((0, 40), (0, 300), (0, 150)))
    target = make_target(tmp_path, grid, "zarr")
    (path,) = write(target, case_grid, make_probabilities(case_grid) * 0 + 0.25)
    zarr = require_zarr()
    with zarr.storage.ZipStore(path, mode="r") as store:
        array = zarr.open_array(store, mode="r")
        assert array.chunks == (1, 16, 128, 128) and "zstd" in str(array.compressors)
    names = zipfile.ZipFile(path).namelist()
    assert len(names) == len(set(names)) == 1 + 3 * 3 * 3 * 2
    assert path.stat().st_size < array.nbytes / 20


def test_nnunets_properties_lie_beside_the_npz(tmp_path):
    case_grid, grid = make_case()
    properties = {"spacing": [3.0, 0.5, 0.7], "sitk_stuff": {"origin": (1.0, 2.0, 3.0)}}
    target = make_target(tmp_path, grid, "npz", properties=properties)
    path, beside = write(target, case_grid, make_probabilities(case_grid))
    assert beside == path.with_suffix(".pkl") and pickle.loads(beside.read_bytes()) == properties


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_what_is_not_finished_leaves_no_file(tmp_path, kind):
    case_grid, grid = make_case()
    slabs = list(cut(make_probabilities(case_grid), 0, (5,)))
    with ProbabilityWriter(make_target(tmp_path, grid, kind), case_grid) as writer:
        writer.add(slabs[0])
        assert len(list(tmp_path.iterdir())) == 1 and next(tmp_path.iterdir()).name.startswith(".stu-tmp-")
    assert list(tmp_path.iterdir()) == []


def test_every_channel_has_a_name(tmp_path):
    case_grid, grid = make_case()
    with pytest.raises(ValueError, match="2 channels, expected 3"):
        write(make_target(tmp_path, grid, "npz"), case_grid, make_probabilities(case_grid)[:2])


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_a_finished_file_is_replaced_only_by_a_finished_one(tmp_path, kind):
    case_grid, grid = make_case()
    target = make_target(tmp_path, grid, kind)
    write(target, case_grid, make_probabilities(case_grid))
    before = target.path.read_bytes()
    bad = make_probabilities(case_grid, seed=1)
    bad[1, 15, 3, 3] = torch.nan
    with pytest.raises(NonFiniteError, match="not finite"):
        write(target, case_grid, bad)
    assert target.path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [target.path.name]


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, kind):
    case_grid, grid = make_case(full=(40, 300, 150), box=((0, 40), (0, 300), (0, 150)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(StorageError, match="no space left"):
            write(make_target(tmp_path, grid, kind), case_grid, make_probabilities(case_grid))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert list(tmp_path.iterdir()) == []


def test_an_npz_that_does_not_hold_the_numbers_is_refused(tmp_path, monkeypatch):
    case_grid, grid = make_case()
    read = npz_file._read_blocks

    def read_less(path):
        for block in read(path):
            yield block[:-4]

    monkeypatch.setattr(npz_file, "_read_blocks", read_less)
    with pytest.raises(StorageError, match="could not be verified"):
        write(make_target(tmp_path, grid, "npz"), case_grid, make_probabilities(case_grid))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "foreign", "missing", "text"])
def test_damaged_or_foreign_probabilities_are_refused(tmp_path, damage):
    path = tmp_path / "a.zarr.zip"
    if damage == "cut":
        case_grid, grid = make_case()
        write(make_target(tmp_path, grid, "zarr"), case_grid, make_probabilities(case_grid))
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "foreign":
        zarr = require_zarr()
        with zarr.storage.ZipStore(path, mode="w") as store:
            zarr.create_array(store, shape=(1, 2, 2, 2), dtype="u1")
    elif damage == "text":
        path.write_text("no zip")
    with pytest.raises(DataError):
        read_probabilities(path)


def test_an_unknown_channel_is_named(tmp_path):
    case_grid, grid = make_case()
    (path,) = write(make_target(tmp_path, grid, "zarr"), case_grid, make_probabilities(case_grid))
    with pytest.raises(DataError, match="no channel 'spleen', found background, liver, left kidney"):
        read_probabilities(path, ["spleen"])


def test_without_zarr_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(UsageError) as caught:
        require_zarr()
    assert caught.value.hint == "pip install 'stu-pipeline[zarr]'"


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from stu_pipeline.datasets.volume import Grid
from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.prediction.writing.probability_files import ProbabilityTarget, ProbabilityWriter
from stu_pipeline.prediction.writing.zarr_file import require_zarr
require_zarr()
shape = (160, 192, 192)
case_grid = CaseGrid(network_shape=shape, cropped_shape=shape, full_shape=shape, box=tuple((0, n) for n in shape),
                     transpose_backward=(0, 1, 2))
names = tuple(map(str, range(20)))
target = ProbabilityTarget(path=Path(sys.argv[1]), kind=sys.argv[2], grid=Grid(shape=shape, spacing_mm=(1.0,) * 3),
                           names=names)
part = torch.full((20, 2, 192, 192), 0.05)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ProbabilityWriter(target, case_grid) as writer:
    for start in range(0, 160, 2):
        writer.add(Slab(start=start, axis=0, scores=part))
    writer.finish()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "limit_mib"), [("npz", 80), ("zarr", 150)])
def test_memory_holds_a_few_planes_of_the_449_mib(tmp_path, kind, limit_mib):
    path = tmp_path / f"a{ENDINGS[kind]}"
    outcome = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), kind],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    print(kind, outcome.stdout)
    assert float(outcome.stdout) < limit_mib
