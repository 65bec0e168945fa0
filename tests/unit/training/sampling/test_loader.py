"""Samples in order and in time, and workers that are lost."""

from __future__ import annotations

import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import blosc2
import numpy as np
import pytest

from stu_pipeline.errors import DataError, MemoryLimitError
from stu_pipeline.training.sampling.crop import CropRule
from stu_pipeline.training.sampling.loader import SampleLoader, choose_num_places
from stu_pipeline.training.sampling.sample import SampleKey
from stu_pipeline.worker_process import Patience
from tests.unit.training.sampling.tiny_cases import (
    SHAPE,
    describe,
    make_settings,
    make_source,
    write_case,
    write_cases,
)

REPOSITORY = Path(__file__).resolve().parents[4]


def open_loader(source, num_workers, **choices):
    return SampleLoader(source, **{"slots": (0, 1), "num_workers": num_workers, "phase": "train", "seed": 5, **choices})


def take_all(source, num_workers, steps, **choices):
    with open_loader(source, num_workers, first_step=steps[0], **choices) as loader:
        return [[describe(sample) for sample in loader.take(step)] for step in steps]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def take_until_error(loader, limit_s=10):
    start = time.monotonic()
    with pytest.raises((DataError, MemoryLimitError)) as caught:
        loader.take(0)
    assert time.monotonic() - start < limit_s
    return caught.value


def wait_until_blocked(pid, limit_s=20):
    """Wait until a worker has opened its first case and stands still there."""
    deadline = time.monotonic() + limit_s
    while "case_0" not in open_files(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "case_0" in open_files(pid)


def open_files(pid):
    return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path, write_cases(tmp_path))


@pytest.fixture
def hanging_source(tmp_path):
    """Make a source whose only case is never read to its end: nobody writes into its properties."""
    source = make_source(tmp_path, write_cases(tmp_path, 1), rule=CropRule(batch=2, foreground_share=1))
    (tmp_path / "case_0.pkl").unlink()
    os.mkfifo(tmp_path / "case_0.pkl")
    return source


def test_samples_depend_neither_on_workers_nor_on_where_training_goes_on(source):
    alone = take_all(source, 0, range(12))
    assert take_all(source, 1, range(12)) == alone
    assert take_all(source, 2, range(12)) == alone
    assert take_all(source, 2, range(7, 12)) == alone[7:]
    assert [key for step in alone for key, *_ in step] == [
        SampleKey(seed=5, phase="train", step=step, slot=slot) for step in range(12) for slot in (0, 1)
    ]


def test_workers_hand_over_slices_and_two_label_maps(tmp_path):
    cases = write_cases(tmp_path)
    (tmp_path / "previous").mkdir()
    for case in cases:
        labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.int16)
        blosc2.asarray(labels, urlpath=str(tmp_path / "previous" / f"{case}.b2nd"))
    settings = make_settings((8, 8), (12, 13), rotation_rad=(-3, 3))
    source = make_source(tmp_path, cases, settings=settings, previous_folder=tmp_path / "previous")
    found = take_all(source, 1, range(5))
    assert found == take_all(source, 0, range(5))
    assert {shape[0] for step in found for *_, shape, _ in step} == {2}


def test_validation_has_samples_of_its_own(source):
    validation = take_all(source, 0, range(5), phase="validation")
    assert take_all(source, 1, range(5), phase="validation") == validation != take_all(source, 0, range(5))


def test_ranks_share_the_batch_of_one_process(source):
    together = take_all(source, 0, range(3), slots=(0, 1, 2, 3))
    first, second = (take_all(source, 0, range(3), slots=slots) for slots in ((0, 1), (2, 3)))
    assert [one + other for one, other in zip(first, second, strict=True)] == together


def test_samples_stay_valid_until_the_next_ones_are_taken(source):
    # Memory for two batches is the least: every place is used again and again.
    with open_loader(source, 2, prefetch_bytes=0) as loader:
        for step in range(10):
            samples = loader.take(step)
            content = [describe(sample) for sample in samples]
            time.sleep(0.03)
            assert [describe(sample) for sample in samples] == content
            assert all(sample.data.flags.writeable for sample in samples)
    assert [describe(sample) for sample in samples] == content


def test_steps_are_taken_in_order(source):
    with open_loader(source, 0, first_step=3) as loader:
        with pytest.raises(ValueError, match="step 0 was asked for, step 3 comes next"):
            loader.take(0)
        loader.take(3)
        with pytest.raises(ValueError, match="step 4 comes next"):
            loader.take(3)


def test_a_wait_can_be_left_and_taken_up_again(hanging_source):
    fifo = hanging_source.folder / "case_0.pkl"

    def leave():
        raise KeyboardInterrupt

    with open_loader(hanging_source, 1) as loader:
        with pytest.raises(KeyboardInterrupt):
            loader.take(0, while_waiting=leave)
        calls = []
        threading.Timer(1, lambda: fifo.write_bytes(pickle.dumps({"class_locations": {}}))).start()
        assert len(loader.take(0, while_waiting=lambda: calls.append(0))) == 2
        assert calls


def test_a_loader_without_slots_is_refused(source):
    with pytest.raises(ValueError, match="without slots"):
        open_loader(source, 1, slots=())


def test_the_memory_of_waiting_samples_is_known(source):
    with open_loader(source, 1) as loader:
        assert loader.memory_bytes >= 6 * source.max_sample_bytes
    with open_loader(source, 0) as loader:
        assert loader.memory_bytes == 0


def test_the_time_waited_is_measured_and_starts_again(source):
    with open_loader(source, 0) as loader:
        loader.take(0)
        assert 0 < loader.take_waited_s() < 5
        assert loader.take_waited_s() == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_case_is_raised_as_it_is_and_only_when_its_step_comes(tmp_path, num_workers):
    source = make_source(tmp_path, write_cases(tmp_path))
    keys = [[SampleKey(seed=5, phase="train", step=step, slot=slot) for slot in (0, 1)] for step in range(50)]
    names = [[source.name_case(key) for key in step] for step in keys]
    bad = next(name for name in source.cases if name not in names[0])
    (tmp_path / f"{bad}.b2nd").write_bytes(b"x")
    first = next(step for step, cases in enumerate(names) if bad in cases)
    with open_loader(source, num_workers) as loader:
        for step in range(first):
            loader.take(step)
        for _ in range(2):
            with pytest.raises(DataError, match=f"'{bad}.b2nd' of case '{bad}' is damaged") as caught:
                loader.take(first)
    assert caught.value.where == tmp_path


@pytest.mark.parametrize(
    ("number", "kind", "fate"),
    [
        (signal.SIGKILL, MemoryLimitError, "was killed by signal 9 (SIGKILL)"),
        (signal.SIGSEGV, DataError, "was killed by signal 11 (SIGSEGV)"),
        (signal.SIGBUS, DataError, "was killed by signal 7 (SIGBUS)"),
    ],
)
def test_a_killed_worker_is_named_with_its_case(hanging_source, number, kind, fate):
    with open_loader(hanging_source, 2) as loader:
        wait_until_blocked(loader.worker_pids[0])
        os.kill(loader.worker_pids[0], number)
        error = take_until_error(loader)
        assert take_until_error(loader) is error  # it does not hang when it is asked again
    assert type(error) is kind and error.where == hanging_source.folder
    assert error.problem == f"the worker process for 'case_0' {fate}"
    assert "fewer workers" in error.hint


def test_a_stopped_worker_is_named_with_its_case(hanging_source):
    with open_loader(hanging_source, 1, patience=Patience(silent_s=2)) as loader:
        wait_until_blocked(loader.worker_pids[0])
        os.kill(loader.worker_pids[0], signal.SIGSTOP)
        error = take_until_error(loader)
    assert isinstance(error, DataError)
    assert re.search(r"'case_0' did not respond for \d s and was ended", error.problem)


@pytest.mark.slow
def test_a_read_that_hangs_is_named_although_the_worker_lives(hanging_source):
    with open_loader(hanging_source, 1, patience=Patience(silent_s=7, answer_s=3)) as loader:
        error = take_until_error(loader, limit_s=20)
    assert re.search(r"'case_0' has been busy with it for \d s and was ended", error.problem)


@pytest.mark.slow
def test_a_worker_that_takes_long_but_lives_is_waited_for(hanging_source):
    fifo = hanging_source.folder / "case_0.pkl"
    content = pickle.dumps({"class_locations": {}})
    with open_loader(hanging_source, 1, patience=Patience(silent_s=4)) as loader:
        threading.Timer(9, lambda: fifo.write_bytes(content)).start()
        start = time.monotonic()
        loader.take(0)
        assert time.monotonic() - start > 6


def test_signals_for_the_group_do_not_reach_the_workers(source):
    with open_loader(source, 2) as loader:
        loader.take(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            for pid in loader.worker_pids:
                os.kill(pid, number)
        for step in range(1, 12):
            loader.take(step)


def test_signals_do_not_hurt_workers_that_are_starting(source):
    with open_loader(source, 2) as loader:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            for pid in loader.worker_pids:
                os.kill(pid, number)
        assert len(loader.take(0)) == 2


def test_a_worker_imports_neither_torch_nor_the_engine(source):
    with open_loader(source, 1) as loader:
        loader.take(0)
        (pid,) = loader.worker_pids
        mapped = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    assert "numpy" in mapped and "blosc2" in mapped
    assert not re.search(r"libtorch|/torch/|SimpleITK|/scipy/", mapped)
    script = "import sys, stu_pipeline.training.sampling.loader; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=60
    )
    heavy = {"torch", "nnunetv2", "batchgenerators", "batchgeneratorsv2", "scipy", "SimpleITK", "acvl_utils"}
    assert {name.split(".")[0] for name in done.stdout.split()}.isdisjoint(heavy)


def test_a_script_without_a_guard_is_not_run_again_by_the_workers(source, tmp_path):
    (tmp_path / "source").write_bytes(pickle.dumps(source))
    script = tmp_path / "script.py"
    script.write_text(
        "import pickle, sys\nfrom pathlib import Path\n"
        "from stu_pipeline.training.sampling.loader import SampleLoader\n"
        "print('run', __name__, flush=True)\n"
        "source = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "with SampleLoader(source, slots=(0, 1), num_workers=1, phase='train', seed=0) as loader:\n"
        "    print(len(loader.take(0)))\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "source")],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("run __main__\n2\n", 0), done.stderr


def test_closing_leaves_no_process_and_no_open_file(source):
    take_all(source, 1, range(1))  # starts what multiprocessing keeps
    gc.collect()
    files, threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    pids = []
    for _ in range(3):
        with open_loader(source, 2) as loader:
            loader.take(0)
            pids += loader.worker_pids
        loader.close()
    del loader
    gc.collect()
    assert not any(is_running(pid) for pid in pids)
    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == (files, threads)


@pytest.mark.slow
def test_few_open_files_are_enough(tmp_path):
    source = make_source(tmp_path, write_cases(tmp_path, 40))
    (tmp_path / "source").write_bytes(pickle.dumps(source))
    script = (
        "import pickle, resource, sys\nfrom pathlib import Path\n"
        "from stu_pipeline.training.sampling.loader import SampleLoader\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "source = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "if __name__ == '__main__':\n"
        "    with SampleLoader(source, slots=(0, 1), num_workers=4, phase='train', seed=0) as loader:\n"
        "        for step in range(200):\n            loader.take(step)\n"
        "        print(*(len(list(Path(f'/proc/{pid}/fd').iterdir())) for pid in ['self', *loader.worker_pids]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "source")],
        capture_output=True, text=True, cwd=REPOSITORY, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert max(map(int, done.stdout.split())) < 32


def test_a_loader_that_is_forgotten_ends_its_workers(source):
    loader = open_loader(source, 1)
    (pid,) = loader.worker_pids
    del loader
    gc.collect()
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_large_batch_goes_through_one_worker(tmp_path):
    write_case(tmp_path, "case", shape=(6, 8, 8))
    source = make_source(tmp_path, ("case",))
    slots = tuple(range(600))
    with open_loader(source, 1, slots=slots) as loader:
        assert [sample.key.slot for sample in loader.take(0)] == list(slots)


@pytest.mark.parametrize(
    ("num_slots", "num_workers", "limit", "expected"), [(2, 4, 10**9, 12), (2, 4, 70, 7), (2, 12, 0, 4), (2, 1, 10, 4)]
)
def test_memory_for_samples_is_bounded(num_slots, num_workers, limit, expected):
    assert choose_num_places(num_slots, num_workers, sample_bytes=10, prefetch_bytes=limit) == expected


def test_samples_are_arrays_of_the_promised_types(source):
    with open_loader(source, 1) as loader:
        for sample in loader.take(0):
            assert sample.data.dtype == np.float32 and sample.labels.dtype == np.int16
