"""Print what `stu calibrate` is worth: on unseen cases, on spoilt images, and what it costs.

    python -m tests.bench.quality MODEL [--dataset DATASET] [--spoil 5]

Calibrates a model folder with finished folds (what was measured before is kept), then spoils a few images in known
ways and compares the expected Dice with the true one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from stu_pipeline import CalibrateConfig, calibrate
from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.reading import read_label_map
from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.nnunet.prepared_case import prepare_raw_case
from stu_pipeline.nnunet.raw_case import RawCase, read_raw_case
from stu_pipeline.prediction.calibration.cases import find_cases, list_validated_folds
from stu_pipeline.prediction.calibration.window import open_meter
from stu_pipeline.prediction.combining.ensemble import Ensemble, LoadedCase, Sinks
from stu_pipeline.prediction.combining.group import Watch
from stu_pipeline.prediction.models.model_folder import open_model_folder
from stu_pipeline.prediction.models.networks import InferenceSettings
from stu_pipeline.prediction.quality.document import read_quality
from stu_pipeline.prediction.quality.estimate import CaseQuality, estimate_quality
from stu_pipeline.prediction.quality.features import ScoredLabel, list_scored_labels
from stu_pipeline.prediction.quality.meter import QualityMeter

NUM_MANY = 105
MANY_SHAPE = (16, 128, 128)
Spoil = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--dataset")
    parser.add_argument("--spoil", type=int, default=5, help="images to spoil, per way")
    arguments = parser.parse_args()
    dataset = arguments.dataset or arguments.model.absolute().parent.name
    result = calibrate(CalibrateConfig(model=arguments.model, dataset=dataset, postprocessing=False))
    print_unseen(result.quality)
    print_spoilt(arguments.model, dataset, arguments.spoil)
    print_many_labels()


def print_unseen(quality: dict) -> None:
    """Print the evaluation on cases that the estimate had not seen."""
    evaluation = quality["evaluation"]
    print(f"{quality['num_cases']} cases, groups: {quality['groups']}; error: mean |expected - true Dice|")
    print(f"{'label':12} {'cases':>5} {'error':>7} {'mean':>7} {'soft':>7} {'rank':>6} {'AUROC':>6} {'covered':>8}")
    for name, row in [*evaluation["labels"].items(), ("all", evaluation["total"])]:
        ranks = " ".join("     -" if row[key] is None else f"{row[key]:6.3f}" for key in ("spearman", "auroc"))
        covered = "-" if row["coverage"] is None else f"{row['coverage']:.3f}"
        print(
            f"{name:12} {row['num_cases']:5d} {row['mae']:7.4f} {row['mae_mean']:7.4f} {row['mae_soft_dice']:7.4f} "
            f"{ranks} {covered:>8}"
        )
    print(
        f"useful: {evaluation['is_useful']}, gain {evaluation['gain']:.4f}, at least {evaluation['gain_at_least']:.4f}"
    )
    print(f"accepted: {evaluation['accepted']}, of all wrongly: {evaluation['accepted_wrongly']}", flush=True)


def print_spoilt(model: Path, dataset: str, count: int) -> None:
    """Print expected and true Dice of spoilt images, each predicted by the fold that was not trained on it."""
    estimator = read_quality(model / "quality.json").estimator
    fold = list_validated_folds(model)[0][0]
    folder = open_model_folder(model, (fold.fold,))
    ensemble = Ensemble([folder], InferenceSettings(device=torch.device("cpu")))
    labels = list_scored_labels(folder.model.dataset)
    cases = list(find_cases(dataset, sorted(fold.scores)).values())[:: max(1, len(fold.scores) // count)][:count]
    raws = {case.id: read_raw_case(folder.model, case) for case in cases}
    print(f"\nspoilt images: {len(cases)} cases of fold {fold.fold}, all labels")
    print(f"{'what was done':28} {'true':>6} expected  error covered to look at accepted")
    # Not turned images: a network that was trained with mirroring segments them as well as others.
    for name, spoil in WAYS.items():
        found = [predict_spoilt(ensemble, case, raws[case.id], spoil) for case in cases]
        print_way(name, found, labels, estimator)


def print_way(name: str, found: list, labels: tuple[ScoredLabel, ...], estimator) -> None:
    """Print one way of spoiling."""
    qualities = [estimate_quality(features, estimator) for features, _ in found]
    rows = [row for quality, (_, dice) in zip(qualities, found, strict=True) for row in pair(quality, dice, labels)]
    true, expected = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    covered = np.mean([row[0] >= row[2] for row in rows if row[2] is not None])
    print(
        f"{name:28} {true.mean():6.3f} {expected.mean():8.3f} {np.abs(true - expected).mean():6.3f} {covered:7.2f} "
        f"{np.mean([bool(quality.reasons) for quality in qualities]):10.2f} "
        f"{np.mean([quality.is_accepted is True for quality in qualities]):8.2f}",
        flush=True,
    )


def pair(quality: CaseQuality, dice: dict, labels: tuple[ScoredLabel, ...]) -> list[tuple]:
    """Pair true and expected Dice; a label that was not found is expected to have 0."""
    by_name = {label.name: label for label in quality.labels}
    return [
        (dice[label.key], by_name[label.name].expected_dice or 0.0, by_name[label.name].lower_bound)
        for label in labels
        if dice[label.key] is not None
    ]


def predict_spoilt(ensemble: Ensemble, case: Case, raw: RawCase, spoil: Spoil):
    """Return the features of a spoilt case, and the Dice of its labels by their values."""
    raw = replace(raw, array=np.stack([spoil(channel).astype(np.float32) for channel in raw.array]))
    prepared = prepare_raw_case(ensemble.model, raw)
    loaded = LoadedCase(case=case, raws={ensemble.model.reader_name: raw.without_voxels()}, prepared=(prepared,))
    meter = open_meter(ensemble, prepared)
    mask = ensemble.predict(loaded, Watch(), lambda prepared, raw: Sinks(logits=(meter,))).mask
    reference = read_label_map(case.label_file).array
    dice = {}
    for label in list_scored_labels(ensemble.model.dataset):
        a, b = np.isin(mask, label.key), np.isin(reference, label.key)
        total = a.sum() + b.sum()
        dice[label.key] = 2 * (a & b).sum() / total if total else None
    return meter.finish(), dice


def add_noise(share: float) -> Spoil:
    """Add noise of a share of the image's own spread."""
    return lambda image: image + np.random.default_rng(0).normal(0, share * image.std(), image.shape)


def add_ramp(image: np.ndarray) -> np.ndarray:
    """Make one side five times as bright as the other, as a bad coil does."""
    return image * np.linspace(0.35, 1.65, image.shape[-1])


def drop_half(image: np.ndarray) -> np.ndarray:
    """Black out the upper half, as a cut scan."""
    spoilt = image.copy()
    spoilt[image.shape[0] // 2 :] = image.min()
    return spoilt


WAYS: dict[str, Spoil] = {
    "nothing": lambda image: image,
    "noise, a quarter of the spread": add_noise(0.25),
    "noise, the spread": add_noise(1.0),
    "blurred, 1.5 voxels": lambda image: ndimage.gaussian_filter(image, 1.5),
    "brighter to one side": add_ramp,
    "contrast, squared": lambda image: (image - image.min()) ** 2,
    "black and white exchanged": lambda image: image.max() - image,
    "upper half black": drop_half,
}


def print_many_labels() -> None:
    """Print what measuring costs with many labels, beside the softmax alone."""
    logits = torch.randn((NUM_MANY, *MANY_SHAPE)) * 4
    megavoxels = np.prod(MANY_SHAPE) / 1e6

    def measure_all() -> None:
        meter = QualityMeter(Decision(num_outputs=NUM_MANY), 0.001)
        meter.add(Slab(start=0, axis=0, scores=logits))
        meter.finish()

    measure_all()
    seconds = [measure_cpu(measure_all) / megavoxels, measure_cpu(lambda: torch.softmax(logits, dim=0)) / megavoxels]
    print(
        f"\n{NUM_MANY} labels: {seconds[0]:.2f} s of CPU per million voxels of the network's grid, "
        f"a softmax alone {seconds[1]:.2f} s"
    )


def measure_cpu(function: Callable[[], object]) -> float:
    """Return the seconds of CPU that one call takes, in all threads; the best of three."""
    found = []
    for _ in range(3):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


if __name__ == "__main__":
    main()
