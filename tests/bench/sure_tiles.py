"""What `--tta auto` and `--effort elastic` save, and what they cost, on validation cases of trained models.

    python -m tests.bench.sure_tiles -m MODEL [-m LARGER_MODEL] --images FOLDER --labels FOLDER [--fold 0] [--cases 10]

Every case is predicted in all ways, one after the other; Dice is against the reference labels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from stu_pipeline.datasets.cases import Case, list_input_cases
from stu_pipeline.datasets.reading import read_label_map
from stu_pipeline.inference.window_statistics import WindowStatistics
from stu_pipeline.prediction.combining.ensemble import Ensemble
from stu_pipeline.prediction.combining.group import Watch
from stu_pipeline.prediction.models.model_folder import ModelFolder, open_model_folder
from stu_pipeline.prediction.models.networks import InferenceSettings
from stu_pipeline.prediction.run.saving import collect_saving


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    folders = [open_model_folder(path, (arguments.fold,)) for path in arguments.model]
    cases = _list_validation_cases(arguments)
    print(f"{len(cases)} validation cases of fold {arguments.fold}, {arguments.threads} threads")
    print("| way | passes | share | seconds | mean Dice | voxels other than full | audited bound |")
    print("|---|---|---|---|---|---|---|")
    expected: dict[str, np.ndarray] = {}
    for name, members, options in _list_ways(folders):
        _print_row(name, _run(Ensemble(members, _settings(options)), cases, arguments.labels, expected))


def _list_ways(folders: list[ModelFolder]) -> list[tuple[str, list[ModelFolder], dict[str, str]]]:
    if len(folders) == 1:
        return [(f"tta {tta}", folders, {"tta": tta}) for tta in ("full", "auto", "none")]
    return [
        ("all models everywhere", folders, {"tta": "none"}),
        ("elastic", folders, {"tta": "none", "effort": "elastic"}),
        ("smallest model alone", folders[:1], {"tta": "none"}),
        ("largest model alone", folders[-1:], {"tta": "none"}),
    ]


def _settings(options: dict[str, str]) -> InferenceSettings:
    return InferenceSettings(device=torch.device("cpu"), **options)


def _run(
    ensemble: Ensemble, cases: list[Case], labels: Path, expected: dict[str, np.ndarray]
) -> tuple[WindowStatistics, float, float, float]:
    found = WindowStatistics()
    seconds, changed, voxels = 0.0, 0, 0
    dice: dict[int, list[float]] = defaultdict(list)
    for seed, case in enumerate(cases):
        loaded = ensemble.load(case)
        watch = Watch(seed=seed)
        start = time.perf_counter()
        mask = ensemble.predict(loaded, watch).mask
        seconds += time.perf_counter() - start
        found.add(collect_saving(watch.statistics))
        full = expected.setdefault(case.id, mask)
        changed += int((mask != full).sum())
        voxels += mask.size
        reference = read_label_map(labels / f"{case.id}{case.ending}").array
        for label in range(1, ensemble.model.num_outputs):
            a, b = mask == label, reference == label
            if a.any() or b.any():
                dice[label].append(2 * int((a & b).sum()) / int(a.sum() + b.sum()))
    return found, seconds, float(np.mean([np.mean(values) for values in dice.values()])), changed / voxels


def _print_row(name: str, row: tuple[WindowStatistics, float, float, float]) -> None:
    found, seconds, dice, changed = row
    bound = f"{100 * found.changed_share_bound:.2g} %" if found.tiles_audited else "-"
    print(
        f"| {name} | {found.passes_run} | {found.passes_share:.0%} | {seconds:.1f} | {dice:.4f} "
        f"| {100 * changed:.4f} % | {bound} ({found.tiles_audited} tiles) |",
        flush=True,
    )


def _list_validation_cases(arguments: argparse.Namespace) -> list[Case]:
    names = {
        path.name.split(".")[0] for path in (arguments.model[0] / f"fold_{arguments.fold}" / "validation").iterdir()
    }
    dataset = json.loads((arguments.model[0] / "dataset.json").read_text(encoding="utf-8"))
    cases = list_input_cases(arguments.images, len(dataset["channel_names"]), dataset["file_ending"])
    return [case for case in cases if case.id in names][: arguments.cases]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", type=Path, action="append", required=True, help="smallest first")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
