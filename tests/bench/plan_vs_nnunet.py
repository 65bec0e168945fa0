"""Measure planning and preprocessing against stock nnU-Net, in turn, in one run, and print a table.

    python -m tests.bench.plan_vs_nnunet [--quick] [--repeats 3] [--workers 2] [--output table.md]

The real data of tests/real is linked into a temporary workspace and never changed. Both sides have the same number
of workers; each run starts from an empty folder; the sides alternate (A, B, A, B, ...), so that a machine that slows
down slows both. Stock is driven by its own commands, and where a function is measured, in a process of its own.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.measure_process import Measurement, run_measured
from tests.real_data import ROOT

REPOSITORY = Path(__file__).resolve().parents[2]
HIPPOCAMPUS = "Dataset004_Hippocampus"
SIDES = ("stu", "nnunet")
# Dataset, case, target spacing in mm (the plan's own would resample nothing) and what it is.
MANY_LABELS = (
    ("Dataset112_TotalSegCT", "tsct_full", 1.5, "61-label CT, 3 to 1.5 mm"),
    ("Dataset108_MouseBrain", "mouse_1", 0.1, "37-label mouse brain, 0.15 to 0.1 mm"),
)
_PACKAGES = ("nnunetv2", "torch", "numpy", "SimpleITK", "batchgenerators", "acvl-utils")


@dataclass(slots=True)
class Row:
    """One comparison: the runs of both sides in the order they were made."""

    what: str
    stu: list[Measurement] = field(default_factory=list)
    nnunet: list[Measurement] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where and how to measure."""

    data: Path
    root: Path
    num_workers: int
    num_repeats: int
    num_cases: int | None
    """Hippocampus cases; None takes all."""

    @property
    def raw(self) -> Path:
        """The raw root, of links."""
        return self.root / "raw"

    def run(self, command: Sequence[str], place: Path) -> Measurement:
        """Run one command with its preprocessed data and results below `place`."""
        place.mkdir(parents=True, exist_ok=True)
        variables = {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(place / "preprocessed"),
            "nnUNet_results": str(place / "results"),
            # What `make` sets for every target: the workers are the parallelism.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONPATH": str(REPOSITORY),
        }
        return run_measured(command, variables=variables, log=place / "log.txt")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write it where asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 cases, 2 repeats: does it run at all")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--data", type=Path, default=find_data(), help="raw root of the real data")
    parser.add_argument("--output", type=Path, help="file for the table")
    parser.add_argument("--only", choices=["hippocampus", "labels"])
    options = parser.parse_args(arguments)
    if options.data is None or not options.data.is_dir():
        print("no real data ($STU_REAL_DATA, else ../shared/data): nothing measured")
        return
    with tempfile.TemporaryDirectory(prefix="stu-bench-") as folder:
        bench = Bench(
            data=options.data,
            root=Path(folder),
            num_workers=options.workers,
            num_repeats=options.repeats or (2 if options.quick else 3),
            num_cases=20 if options.quick else None,
        )
        rows: list[Row] = []
        if options.only != "labels":
            rows += measure_hippocampus(bench)
        if options.only != "hippocampus":
            rows += measure_many_labels(bench)
        table = format_table(rows, bench)
    print(table)
    if options.output:
        options.output.write_text(table, encoding="utf-8")


def find_data() -> Path | None:
    """Return the folder of the real data, or None."""
    return ROOT if ROOT.is_dir() else None


def measure_hippocampus(bench: Bench) -> list[Row]:
    """Measure every stage, and all together, on many small cases."""
    number = link_dataset(bench, HIPPOCAMPUS, num_cases=bench.num_cases)
    cases = len(list((bench.raw / HIPPOCAMPUS / "labelsTr").iterdir()))
    rows = {
        "work": Row(f"fingerprint, {cases} hippocampus cases, the work alone (ours checks the data too)"),
        "fingerprint": Row("fingerprint, the whole process"),
        "plan": Row("plan, with the fingerprint at hand"),
        "preprocess": Row(f"preprocess 3d_fullres, {cases} cases, the whole process (ours by a script)"),
        "all": Row("plan and preprocess, end to end"),
    }
    for turn in range(bench.num_repeats):
        for side in SIDES:
            place = bench.root / f"{turn}-{side}"
            for name, measured in _walk_stages(bench, side, number, place):
                getattr(rows[name], side).append(measured)
            _require_cases(place / "preprocessed" / HIPPOCAMPUS, cases)
            shutil.rmtree(place)
        for side in SIDES:
            place = bench.root / f"{turn}-{side}-all"
            getattr(rows["all"], side).append(bench.run(_list_all(side, number, bench.num_workers), place))
            _require_cases(place / "preprocessed" / HIPPOCAMPUS, cases)
            shutil.rmtree(place)
        _tell(f"hippocampus: {turn + 1} of {bench.num_repeats} rounds")
    return list(rows.values())


def _walk_stages(bench: Bench, side: str, number: str, place: Path) -> Iterator[tuple[str, Measurement]]:
    workers = str(bench.num_workers)
    worker = [sys.executable, "-m", "tests.bench.plan_worker"]
    fingerprint = [*worker, "fingerprint", side, "--dataset", HIPPOCAMPUS, "--workers", workers]
    measured = bench.run(fingerprint, place)
    yield "work", Measurement(seconds=measured.document["seconds"], peak_mib=measured.peak_mib)
    yield "fingerprint", measured
    if side == "nnunet":
        yield "plan", bench.run([_find_script("nnUNetv2_plan_experiment"), "-d", number], place)
        command = [_find_script("nnUNetv2_preprocess"), "-d", number, "-c", "3d_fullres", "-np", workers, "--no_pbar"]
        yield "preprocess", bench.run(command, place)
        return
    plan = [sys.executable, "-m", "stu_pipeline", "plan", number, *_FLAGS, "--workers", workers, "--no-preprocess"]
    yield "plan", bench.run(plan, place)
    path = place / "preprocessed" / HIPPOCAMPUS / "stuSPlans.json"
    command = [*worker, "preprocess", side, "--dataset", HIPPOCAMPUS, "--workers", workers, "--plan", str(path)]
    yield "preprocess", bench.run(command, place)


_FLAGS = ("--scale", "S", "--gpu-memory", "24")


def _list_all(side: str, number: str, num_workers: int) -> list[str]:
    workers = str(num_workers)
    if side == "stu":
        return [sys.executable, "-m", "stu_pipeline", "plan", number, *_FLAGS, "--workers", workers]
    script = _find_script("nnUNetv2_plan_and_preprocess")
    return [script, "-d", number, "-c", "3d_fullres", "-npfp", workers, "-np", workers, "--no_pbar"]


def measure_many_labels(bench: Bench) -> list[Row]:
    """Measure the resampling of label maps with many labels: the function, and the case around it."""
    rows = []
    for name, case, spacing, what in MANY_LABELS:
        if not (bench.data / name).is_dir():
            continue
        number = link_dataset(bench, name)
        place = bench.root / name
        bench.run([sys.executable, "-m", "stu_pipeline", "plan", number, *_FLAGS, "--no-preprocess"], place)
        common = ["--dataset", name, "--case", case, "--spacing", str(spacing)]
        plan = place / "preprocessed" / name / "stuSPlans.json"
        labels = Row(f"resample the labels, {what}")
        whole = Row(f"preprocess the case, {what}")
        for turn in range(bench.num_repeats):
            for side in SIDES:
                start = [sys.executable, "-m", "tests.bench.plan_worker"]
                getattr(labels, side).append(_run_worker(bench, [*start, "labels", side, *common], place))
                target = place / f"{turn}-{side}"
                command = [*start, "case", side, *common, "--plan", str(plan), "--output", str(target)]
                getattr(whole, side).append(_run_worker(bench, command, place))
                if len(list(target.glob("*.b2nd"))) != 2:
                    raise RuntimeError(f"{side} did not write the case: {sorted(target.iterdir())}")
                shutil.rmtree(target)
        _require_agreement(labels)
        rows += [labels, whole]
        _tell(what)
    return rows


def _run_worker(bench: Bench, command: Sequence[str], place: Path) -> Measurement:
    measured = bench.run(command, place)
    document = measured.document
    return Measurement(seconds=document["seconds"], peak_mib=measured.peak_mib, document=document["outcome"])


def _require_agreement(row: Row) -> None:
    """Both sides must have done the same: same shape and labels, the foreground alike to a thousandth."""
    ours, theirs = row.stu[0].document, row.nnunet[0].document
    same = ours["shape"] == theirs["shape"] and ours["labels"] == theirs["labels"]
    if not same or abs(ours["foreground"] / theirs["foreground"] - 1) > 1e-3:
        raise RuntimeError(f"{row.what}: the sides disagree: {ours} and {theirs}")


def _require_cases(folder: Path, num_cases: int) -> None:
    """Both sides must have preprocessed every case."""
    found = len(list((folder / "nnUNetPlans_3d_fullres").glob("*.pkl")))
    if found != num_cases:
        raise RuntimeError(f"{found} of {num_cases} cases in {folder}")


def link_dataset(bench: Bench, name: str, *, num_cases: int | None = None) -> str:
    """Link a dataset, or its first cases, below the raw root and return its number."""
    source, target = bench.data / name, bench.raw / name
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir(parents=True)
        for file in sorted((source / part).iterdir())[:num_cases]:
            (target / part / file.name).symlink_to(file.resolve())
    description = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    description["numTraining"] = len(list((target / "labelsTr").iterdir()))
    (target / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return name[len("Dataset") : name.index("_")]


def format_table(rows: Sequence[Row], bench: Bench) -> str:
    """Return the Markdown page: the machine, then one line per comparison."""
    lines = [
        f"Measured {datetime.datetime.now(datetime.UTC).date().isoformat()} on {describe_machine()}; "
        f"{bench.num_workers} workers on both sides, medians of {bench.num_repeats} alternating runs.",
        "",
        "| what | stu s | nnU-Net s | nnU-Net / stu | lowest to highest | stu MiB | nnU-Net MiB |",
        "|---|---|---|---|---|---|---|",
        *[_format_row(row) for row in rows],
        "",
        "The ratio is the median over pairs, with its lowest and highest pair. MiB is the resident size of the largest "
        "single process of a run.",
        "",
    ]
    return "\n".join(lines)


def _format_row(row: Row) -> str:
    ours, theirs = ([run.seconds for run in runs] for runs in (row.stu, row.nnunet))
    ratios = [stock / mine for mine, stock in zip(ours, theirs, strict=True)]
    peaks = [max(run.peak_mib for run in runs) for runs in (row.stu, row.nnunet)]
    cells = [
        row.what,
        f"{statistics.median(ours):.2f}",
        f"{statistics.median(theirs):.2f}",
        f"{statistics.median(ratios):.1f}",
        f"{min(ratios):.1f} to {max(ratios):.1f}",
        *[f"{peak:.0f}" for peak in peaks],
    ]
    return f"| {' | '.join(cells)} |"


def describe_machine() -> str:
    """Name the processor, its cores and the versions that matter."""
    model = next(_read_cpu_models(), platform.machine())
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES)
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, {platform.system()}, Python {platform.python_version()}, {versions}"


def _read_cpu_models() -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        if line.startswith("model name"):
            yield line.split(":", 1)[1].strip()


def _find_script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
