"""Print what learned post-processing is worth, how often it finds something in nothing, and what it costs.

    python -m tests.bench.postprocessing [MODEL ...] [--dataset DATASET] [--null 200]

Learns from the validation masks of model folders (nothing is written), from simulated cross-validations in which no
operation helps on average, and cleans up a large label map.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from stu_pipeline.prediction.calibration.cases import list_validated_folds
from stu_pipeline.prediction.postprocessing.choosing import Limits
from stu_pipeline.prediction.postprocessing.learning import learn_postprocessing
from stu_pipeline.prediction.postprocessing.rules import LabelRule, PostprocessingRules, apply_rules
from tests.unit.prediction.test_postprocessing_learning import count_null_datasets_with_a_rule

NUM_LABELS = 105
SHAPE = (300, 512, 512)
BLOCK = 64


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--dataset")
    parser.add_argument("--null", type=int, default=200, help="simulated datasets, per number of cases")
    arguments = parser.parse_args()
    for model in arguments.models:
        print_model(model, arguments.dataset or model.absolute().parent.name)
    if arguments.null:
        print_null(arguments.null)
    print_cost()


def print_model(model: Path, dataset: str) -> None:
    """Print what is learned from a model's validation."""
    folds, _ = list_validated_folds(model)
    start = time.perf_counter()
    rules = learn_postprocessing(model, {fold.fold: sorted(fold.scores) for fold in folds}, dataset)
    seconds = time.perf_counter() - start
    print(f"\n{model.name}: {rules.evidence['num_cases']} cases of {len(folds)} folds, {seconds:.1f} s")
    for step in rules.evidence["steps"]:
        print(
            f"  {step['label']} {step['operation']} {step['removal']}: unseen gain {step['gain']:+.4f}, "
            f"{step['num_better']} better, {step['num_worse']} worse, p {step['p_adjusted']:.2g}, "
            f"{'kept' if step['is_kept'] else 'not kept'}"
        )
    for label, dice in rules.evidence["labels"].items():
        print(f"  {label}: Dice {dice['dice_before']:.4f} -> {dice['dice_after']:.4f}")


def print_null(num_datasets: int) -> None:
    """Print how often a rule is kept where removing a component gains nothing on average."""
    print("\ncases | datasets with a rule, of", num_datasets)
    for num_cases in (15, 25, 60):
        count = count_null_datasets_with_a_rule(Limits(), num_datasets=num_datasets, num_cases=num_cases)
        print(f"{num_cases} | {count}", flush=True)


def print_cost() -> None:
    """Print the time and memory of cleaning up a map of many labels, each with specks and holes."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, NUM_LABELS + 1, [-(-size // BLOCK) for size in SHAPE]).astype(np.uint8)
    mask = coarse.repeat(BLOCK, 0).repeat(BLOCK, 1).repeat(BLOCK, 2)[tuple(slice(size) for size in SHAPE)].copy()
    places = tuple(generator.integers(size, size=200_000) for size in SHAPE)
    mask[places] = generator.integers(0, NUM_LABELS + 1, 200_000)
    rules = PostprocessingRules(
        checkpoints={},
        rules=tuple(
            LabelRule(label=str(value), values=(value,), min_size_mm3=30.0, fill_value=value)
            for value in range(1, NUM_LABELS + 1)
        ),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    _, changes = apply_rules(mask, rules, (1.0, 1.0, 1.0))
    seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    removed = sum(change.num_removed for change in changes)
    print(f"\n{NUM_LABELS} labels, {SHAPE}: {seconds:.1f} s, {grown:.2f} GiB more memory, {removed} components removed")


if __name__ == "__main__":
    main()
