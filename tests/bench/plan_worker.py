"""One piece of planning or preprocessing, done once by one side in this process, for `plan_vs_nnunet`.

    python -m tests.bench.plan_worker WORK SIDE [ARGUMENTS]

Everything is imported first; the last line printed is JSON with the seconds of the work itself.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stu_pipeline.datasets.cases import Case
    from stu_pipeline.datasets.dataset_json import DatasetJson

Work = Callable[[], object]


def main() -> None:
    """Do the work that the command line names and print its seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=sorted(_WORKS))
    parser.add_argument("side", choices=["stu", "nnunet"])
    parser.add_argument("--dataset", required=True, help="DatasetNNN_Name")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--case", help="case id")
    parser.add_argument("--spacing", type=float, help="target spacing in mm")
    parser.add_argument("--plan", type=Path, help="plan to follow")
    parser.add_argument("--output", type=Path, help="folder for what is written")
    arguments = parser.parse_args()
    work = _WORKS[arguments.work](arguments)
    start = time.perf_counter()
    outcome = work()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "outcome": outcome}))


def _prepare_fingerprint(arguments: argparse.Namespace) -> Work:
    if arguments.side == "nnunet":
        name = "nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor"
        extractor = importlib.import_module(name).DatasetFingerprintExtractor(arguments.dataset, arguments.workers)
        extractor.show_progress_bar = False
        return lambda: len(extractor.run(overwrite_existing=True)["spacings"])
    from stu_pipeline.datasets.check import check_dataset, require_dataset
    from stu_pipeline.planning.fingerprint import build_fingerprint, store_fingerprint
    from stu_pipeline.workspace import find_dataset

    dataset = find_dataset(arguments.dataset)

    def run() -> int:
        report = check_dataset(dataset.raw, num_workers=arguments.workers, cache=dataset.inspections)
        require_dataset(report, dataset.raw)
        content = build_fingerprint(report.cases)
        store_fingerprint(dataset, content)
        return len(content["spacings"])

    return run


def _prepare_preprocess(arguments: argparse.Namespace) -> Work:
    if arguments.side == "nnunet":
        raise SystemExit("stock has a command for this")
    from stu_pipeline.preprocessing.preprocess import PreprocessConfig, preprocess

    config = PreprocessConfig(
        dataset=arguments.dataset,
        plan_name=arguments.plan.stem,
        configurations=("3d_fullres",),
        num_workers=arguments.workers,
    )
    return lambda: sum(preprocess(config).num_done.values())


def _prepare_labels(arguments: argparse.Namespace) -> Work:
    """Resample one label map; reading it is not counted."""
    import numpy as np

    from stu_pipeline.datasets.reading import read_label_map

    case, _ = _find_case(arguments)
    volume = read_label_map(case.label_file)
    labels = volume.array.astype(np.int16).reshape(volume.array.shape[-3:])
    before = volume.grid.spacing_mm
    after = [arguments.spacing] * 3
    shape = [round(size * step / arguments.spacing) for size, step in zip(labels.shape, before, strict=True)]
    if arguments.side == "nnunet":
        name = "nnunetv2.preparation.resampling.default_resampling"
        resample = importlib.import_module(name).resample_data_or_seg_to_shape
        return lambda: _describe(resample(labels[None], shape, before, after, is_seg=True, order=1, order_z=0)[0])
    from stu_pipeline.preparation.label_resampling import resample_labels

    return lambda: _describe(resample_labels(labels, shape, order=1))


def _describe(labels: Any) -> dict[str, Any]:
    import numpy as np

    counts = np.bincount(labels.ravel().astype(np.int64))
    return {"shape": list(labels.shape), "labels": int((counts[1:] > 0).sum()), "foreground": int(counts[1:].sum())}


def _prepare_case(arguments: argparse.Namespace) -> Work:
    """Preprocess one case by a plan with another spacing, image and labels, reading and writing included."""
    case, description = _find_case(arguments)
    plan = json.loads(arguments.plan.read_text(encoding="utf-8"))
    plan["configurations"]["3d_fullres"]["spacing"] = [arguments.spacing] * 3
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.side == "nnunet":
        module = importlib.import_module("nnunetv2.preprocessing.preprocessors.default_preprocessor")
        plans = importlib.import_module("nnunetv2.utilities.plans_handling.plans_handler").PlansManager(plan)
        # Its resampling function and reader are looked up by name, which imports further modules.
        configuration = plans.get_configuration("3d_fullres")
        _ = configuration.resampling_fn_data, configuration.resampling_fn_seg, plans.image_reader_writer_class
        preprocessor = module.DefaultPreprocessor(verbose=False)
        files = [str(file) for file in case.image_files]
        target = str(arguments.output / case.id)
        return lambda: preprocessor.run_case_save(
            target, files, str(case.label_file), plans, configuration, description.engine_description
        )
    from stu_pipeline.preprocessing.case import CaseJob, write_case

    job = CaseJob(
        case=case,
        plan=plan,
        configuration="3d_fullres",
        dataset_json=description.engine_description,
        label_ids=description.file_label_ids,
        data_folder=arguments.output,
        scratch_folder=arguments.output,
    )
    return lambda: [file.name for file in write_case(job)]


def _find_case(arguments: argparse.Namespace) -> tuple[Case, DatasetJson]:
    from stu_pipeline.datasets.cases import list_training_cases
    from stu_pipeline.datasets.dataset_json import read_dataset_json
    from stu_pipeline.workspace import find_dataset

    raw = find_dataset(arguments.dataset).raw
    description = read_dataset_json(raw)
    cases = list_training_cases(raw, description)
    return next(case for case in cases if case.id == arguments.case), description


_WORKS: dict[str, Callable[[argparse.Namespace], Work]] = {
    "fingerprint": _prepare_fingerprint,
    "preprocess": _prepare_preprocess,
    "labels": _prepare_labels,
    "case": _prepare_case,
}

if __name__ == "__main__":
    main()
