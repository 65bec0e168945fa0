"""What is learned from a cross-validation: what helps unseen cases, and nothing where nothing does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import binary_erosion
from scipy.stats import wilcoxon

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.errors import DataError
from stu_pipeline.prediction.models.model_folder import open_model_folder
from stu_pipeline.prediction.postprocessing.case_files import LearningCase, LearningTask, clean_files
from stu_pipeline.prediction.postprocessing.choosing import CANDIDATES, Limits, choose_steps, compute_p
from stu_pipeline.prediction.postprocessing.learning import learn_postprocessing, learn_rules
from stu_pipeline.prediction.postprocessing.rules import (
    RULES_FILE,
    LabelRule,
    PostprocessingRules,
    apply_rules,
    find_rules,
    write_rules,
)
from stu_pipeline.prediction.postprocessing.tables import NOTHING, CaseTable, Removal, TargetTable, tabulate_case
from stu_pipeline.prediction.postprocessing.targets import Target
from tests.model_folders import write_model_folder
from tests.synthetic import make_sphere, write_tiny_dataset, write_volume

TARGETS = (Target(name="liver", values=(1,), fill_value=1), Target(name="tumour", values=(2,), fill_value=2))
TASK = LearningTask(targets=TARGETS)
LARGEST = Removal(keep_largest=1)
SHAPE = (14, 18, 18)


def draw_reference(generator: np.random.Generator) -> np.ndarray:
    """Draw a ball with another label in it, somewhere near the middle."""
    centre = [size / 2 - 0.5 + generator.integers(-1, 2) for size in SHAPE]
    reference = np.where(make_sphere(SHAPE, 4, centre=centre), 1, 0).astype(np.uint8)
    reference[make_sphere(SHAPE, 2.4, centre=centre)] = 2
    return reference


def blur(reference: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Move the borders of a mask at random: errors that no operation here can undo."""
    moved = np.roll(reference, int(generator.choice([-1, 1])), axis=int(generator.integers(3)))
    return np.where(generator.random() < 0.9, moved, reference).astype(np.uint8)


def add_blobs(mask: np.ndarray, generator: np.random.Generator, *, value: int = 1) -> np.ndarray:
    """Add what a network invents far from the organ: a few voxels in corners."""
    spoilt = mask.copy()
    for _ in range(int(generator.integers(1, 4))):
        z, y, x = (int(generator.integers(size - 1)) if axis == 0 else int(generator.choice([0, size - 2]))
                   for axis, size in enumerate(SHAPE))  # fmt: skip
        spoilt[z : z + 2, y : y + 2, x : x + 2] = value
    return spoilt


def write_cases(folder: Path, *, spoil, num_cases: int = 15, num_groups: int = 5) -> list[LearningCase]:
    generator = np.random.default_rng(0)
    cases = []
    for index in range(num_cases):
        reference = draw_reference(generator)
        prediction = spoil(blur(reference, generator), generator)
        case = LearningCase(
            name=f"case_{index:02d}",
            group=index % num_groups,
            prediction=folder / "masks" / f"case_{index:02d}.nii.gz",
            reference=folder / "labels" / f"case_{index:02d}.nii.gz",
        )
        for path, array in ((case.prediction, prediction), (case.reference, reference)):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(path, array, spacing_mm=(2.0, 1.0, 1.0))
        cases.append(case)
    return cases


def keep_as_is(mask, generator):
    return mask


def test_invented_blobs_are_learned_and_what_unseen_cases_gain_is_reported(tmp_path):
    cases = write_cases(tmp_path, spoil=add_blobs)
    rules = learn_rules(cases, TASK)
    assert {rule.label for rule in rules.rules} <= {"foreground", "liver"}
    labels = rules.evidence["labels"]
    assert labels["liver"]["dice_after"] > labels["liver"]["dice_before"] + 0.01
    assert labels["tumour"]["dice_after"] == labels["tumour"]["dice_before"]
    kept = [step for step in rules.evidence["steps"] if step["is_kept"]]
    assert kept
    assert all(step["p_adjusted"] <= 0.05 and step["num_worse"] == 0 and step["gain"] > 0 for step in kept)
    before, after = zip(
        *((c.before, c.after) for c in (clean_files(case, TASK, rules.rules) for case in cases)), strict=True
    )
    assert labels["liver"]["dice_before"] == pytest.approx(np.mean(before, axis=0)[0], abs=1e-12)
    assert labels["liver"]["dice_after"] == pytest.approx(np.mean(after, axis=0)[0], abs=1e-12)


def test_clean_masks_teach_nothing(tmp_path):
    rules = learn_rules(write_cases(tmp_path, spoil=keep_as_is), TASK)
    assert rules.rules == ()
    assert rules.evidence["num_cases"] == 15
    assert rules.evidence["labels"]["liver"]["dice_before"] == rules.evidence["labels"]["liver"]["dice_after"] < 1


def test_holes_that_are_no_holes_are_learned(tmp_path):
    def pierce(mask, generator):
        pierced = mask.copy()
        pierced[binary_erosion(mask == 2)] = 0
        return pierced

    rules = learn_rules(write_cases(tmp_path, spoil=pierce), TASK)
    assert [(rule.label, rule.fill_value, rule.keep_largest, rule.min_size_mm3) for rule in rules.rules] == [
        ("tumour", 2, None, None)
    ]
    labels = rules.evidence["labels"]
    assert labels["tumour"]["dice_after"] > labels["tumour"]["dice_before"]


def test_an_operation_that_spoils_one_case_is_not_kept(tmp_path):
    # Fourteen cases gain by losing their blobs; one has a true part that is smaller than those.
    cases = write_cases(tmp_path, spoil=add_blobs)
    parts = np.zeros(SHAPE, dtype=np.uint8)
    parts[4:8, 2:8, 2:8] = parts[4, 12:14, 12:14] = 1
    for path in (cases[4].prediction, cases[4].reference):
        write_volume(path, parts, spacing_mm=(2.0, 1.0, 1.0))
    assert learn_rules(cases, TASK, limits=Limits(max_harm=0.01)).rules == ()
    careless = learn_rules(cases, TASK, limits=Limits(max_harm=0.02))
    assert [rule.label for rule in careless.rules] == ["foreground"]
    assert careless.evidence["steps"][0]["worst"] == pytest.approx(2 * 144 / 292 - 1)


def test_of_two_operations_the_better_one_is_passed_over_where_it_harms_a_case():
    def make_table(sizes: list[int], is_right: list[bool]) -> CaseTable:
        counts, hits = np.array(sizes), np.array(sizes) * np.array(is_right)
        table = TargetTable(
            num_reference=int(hits.sum()), sizes=counts, scored=counts, hits=hits, places=np.arange(len(sizes))
        )
        return CaseTable(voxel_mm3=1.0, foreground_sizes=counts, targets=(table,))

    tables = [make_table([1000 + index, 40 + index, 200], [True, False, False]) for index in range(14)]
    tables.append(make_table([1000, 110], [True, True]))
    groups = np.arange(15) % 5
    assert [step.removal for step in choose_steps(tables, groups, ("a",), Limits(max_harm=0.5)) if step.is_kept] == [
        Removal(keep_largest=1)
    ]
    careful = [step.removal for step in choose_steps(tables, groups, ("a",), Limits(max_harm=0.04))]
    assert careful == [Removal(keep_largest=2)]


def test_a_region_that_takes_a_right_one_inside_along_is_left_alone(tmp_path):
    targets = (
        Target(name="whole", values=(1, 2, 3)),
        Target(name="core", values=(2, 3), removed_value=1),
        Target(name="enhancing", values=(3,), removed_value=2),
    )

    def spoil(mask, generator):
        return mask

    cases = write_cases(tmp_path, spoil=spoil)
    for index, case in enumerate(cases):
        reference = np.zeros(SHAPE, dtype=np.uint8)
        reference[1:13, 1:17, 1:17] = 1
        reference[3:6, 3:9, 3:6] = 2
        reference[4, 4, 4:6] = reference[10, 14, 13 : 14 + index % 2] = 3
        prediction = reference.copy()
        prediction[9:12, 13:16, 12:16][reference[9:12, 13:16, 12:16] == 1] = 2
        write_volume(case.prediction, prediction)
        write_volume(case.reference, reference)
    rules = learn_rules(cases, LearningTask(targets=targets))
    assert [step["label"] for step in rules.evidence["steps"] if step["is_kept"]] == ["core"]
    assert rules.rules == ()


def test_too_few_cases_prove_nothing(tmp_path):
    rules = learn_rules(write_cases(tmp_path, spoil=add_blobs, num_cases=4, num_groups=4), TASK)
    assert rules.rules == ()
    assert rules.evidence["steps"]


def test_a_case_that_cannot_be_read_is_left_out(tmp_path):
    cases = write_cases(tmp_path, spoil=add_blobs)
    cases[3].prediction.write_bytes(b"no mask")
    write_volume(cases[5].prediction, np.ones((4, 4, 4), dtype=np.uint8))
    rules = learn_rules(cases, TASK)
    assert rules.evidence["num_cases"] == 13
    assert [line.split(":")[0] for line in rules.evidence["left_out"]] == ["case_03", "case_05"]
    with pytest.raises(DataError, match="no validation case"):
        learn_rules([cases[3]], TASK)


def test_what_several_processes_learn_is_the_same(tmp_path):
    cases = write_cases(tmp_path, spoil=add_blobs, num_cases=10)
    assert learn_rules(cases, TASK, num_workers=2) == learn_rules(cases, TASK)


@pytest.mark.parametrize("seed", range(8))
def test_the_dice_of_a_table_is_that_of_the_cleaned_mask(seed):
    generator = np.random.default_rng(seed)
    reference = draw_reference(generator)
    noise = generator.random(SHAPE) < 0.04
    prediction = np.where(noise, generator.integers(0, 3, SHAPE), blur(reference, generator)).astype(np.uint8)
    reference[generator.random(SHAPE) < 0.02] = 3
    table = tabulate_case(prediction, reference, TARGETS, voxel_mm3=2.0, ignore=3)
    whole = LabelRule(label="foreground", values=(1, 2), keep_largest=2)
    for removal in CANDIDATES:
        for is_whole in (False, True):
            rules = [whole] if is_whole else []
            rules += [LabelRule(label=t.name, values=t.values, **_pack(removal)) for t in TARGETS]
            cleaned, _ = apply_rules(
                prediction.copy(), PostprocessingRules(checkpoints={}, rules=tuple(rules)), (2, 1, 1)
            )
            foreground = table.keep_foreground(Removal(keep_largest=2) if is_whole else NOTHING)
            found = [table.measure_dice(index, foreground, removal) for index in range(2)]
            assert found == pytest.approx([_measure_dice(cleaned, reference, value) for value in (1, 2)], abs=1e-12)
    filled, _ = apply_rules(
        prediction.copy(),
        PostprocessingRules(checkpoints={}, rules=(LabelRule(label="liver", values=(1,), fill_value=1),)),
        (2, 1, 1),
    )
    all_there = table.keep_foreground(NOTHING)
    assert table.measure_dice(0, all_there, NOTHING, fills_holes=True) == pytest.approx(
        _measure_dice(filled, reference, 1), abs=1e-12
    )


def test_a_hole_within_two_shells_of_a_label_counts_once_and_for_each_label_around_it():
    prediction = np.zeros((11, 11, 11), dtype=np.uint8)
    for start, value in ((0, 2), (1, 0), (2, 1), (3, 0), (4, 1), (5, 0)):
        prediction[start : 11 - start, start : 11 - start, start : 11 - start] = value
    reference = np.ones_like(prediction)
    table = tabulate_case(prediction, reference, TARGETS, voxel_mm3=1.0)
    enclosed = (prediction[3:8, 3:8, 3:8] == 0).sum()
    assert [(target.hole_scored, target.hole_hits) for target in table.targets] == [
        (enclosed, enclosed),
        ((prediction == 0).sum(), 0),
    ]


def test_a_label_that_nobody_has_counts_as_right():
    table = tabulate_case(np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8), TARGETS, voxel_mm3=1.0)
    assert table.measure_dice(0, table.keep_foreground(LARGEST), LARGEST) == 1.0


def test_the_chance_of_gains_is_that_of_ranks_and_mean():
    assert compute_p(np.zeros(20)) == 1.0
    assert compute_p(np.full(20, -0.1)) == 1.0
    assert compute_p(np.full(20, 0.1), 0.1) == 1.0
    assert compute_p(np.full(4, 0.1)) == 1.0
    assert compute_p(np.full(20, 0.1)) == pytest.approx(2**-20, rel=20)  # ties: a normal approximation
    assert compute_p(np.arange(1, 9) / 10) == pytest.approx(2**-8)
    # Many small gains and one loss: ranks alone would be sure.
    gains = np.append(np.arange(10, 30) / 1000, -0.3)
    assert wilcoxon(gains, alternative="greater").pvalue < 0.005
    assert compute_p(gains) > 0.3


def simulate_case(generator: np.random.Generator) -> CaseTable:
    """Draw a case whose small components are right just so often that removing one gains nothing on average.

    Taking out s wrong voxels gains s * dice / total, s right ones lose s * (2 - dice) / total; so dice / 2 are right.
    """
    targets = []
    for _ in range(3):
        dice = generator.uniform(0.6, 0.9)
        large = int(generator.integers(1500, 2500))
        small = np.maximum(generator.lognormal(3, 1, generator.poisson(2)).astype(int), 1)
        is_right = generator.random(len(small)) < dice / 2
        sizes = np.array([large, *small])
        hits = np.array([int(large * dice), *(small * is_right)])
        # total = reference + predicted voxels, so that 2 * hits / total is the Dice on average
        reference = round(2 * (large * dice + small.sum() * dice / 2) / dice - sizes.sum())
        targets.append(TargetTable(num_reference=reference, sizes=sizes, scored=sizes, hits=hits,
                                   places=np.arange(len(sizes))))  # fmt: skip
    merged = np.concatenate([table.sizes for table in targets])
    starts = np.cumsum([0, *(len(table.sizes) for table in targets[:-1])])
    placed = [replace(table, places=table.places + start) for table, start in zip(targets, starts, strict=True)]
    return CaseTable(voxel_mm3=1.0, foreground_sizes=merged, targets=tuple(placed))


def count_null_datasets_with_a_rule(limits: Limits, *, num_datasets: int, num_cases: int = 25) -> int:
    generator = np.random.default_rng(1)
    count = 0
    for _ in range(num_datasets):
        tables = [simulate_case(generator) for _ in range(num_cases)]
        steps = choose_steps(tables, np.arange(num_cases) % 5, ("a", "b", "c"), limits)
        count += any(step.is_kept for step in steps)
    return count


@pytest.mark.slow
def test_of_200_datasets_where_nothing_helps_at_most_5_percent_keep_a_rule():
    # Gains with a mean of nothing, many small ones and few large losses; harm is allowed, so that the test decides.
    assert count_null_datasets_with_a_rule(Limits(max_harm=2.0), num_datasets=200) <= 10


def test_where_nothing_helps_nothing_is_kept():
    assert count_null_datasets_with_a_rule(Limits(), num_datasets=10) == 0


def test_a_model_learns_from_its_own_validation(tmp_path, monkeypatch):
    model, folds = write_validated_model(tmp_path, monkeypatch)
    rules = learn_postprocessing(model, folds, "901")
    assert rules.rules
    identities = {str(item.fold): item.identity for item in open_model_folder(model).folds}
    assert dict(rules.checkpoints) == identities
    write_rules(model / RULES_FILE, rules)
    dataset = open_model_folder(model).model.dataset
    assert find_rules(model, identities, dataset) == (rules, ())


def test_cases_without_a_mask_are_named_and_another_dataset_is_refused(tmp_path, monkeypatch):
    model, folds = write_validated_model(tmp_path, monkeypatch)
    (model / "fold_1" / "validation" / f"{folds[1][0]}.nii.gz").unlink()
    rules = learn_postprocessing(model, {**folds, 2: [*folds[2], "unheard_of"]}, "901")
    assert rules.evidence["left_out"] == [
        f"{folds[1][0]}: has no validation mask",
        "unheard_of: not among the training cases",
    ]
    shutil.copytree(tmp_path / "raw" / "Dataset901_Tiny", tmp_path / "raw" / "Dataset902_Other")
    path = tmp_path / "raw" / "Dataset902_Other" / "dataset.json"
    path.write_text(path.read_text().replace('"labels": {', '"labels": {"more": 3, '))
    with pytest.raises(DataError, match="other labels than the model"):
        learn_postprocessing(model, folds, "902")


def write_validated_model(root: Path, patch: pytest.MonkeyPatch) -> tuple[Path, dict[int, list[str]]]:
    """Write a model of three folds whose validation masks are the references with blobs."""
    raw = write_tiny_dataset(root / "raw", 901, num_cases=12, shape=SHAPE)
    model = write_model_folder(
        root / "results", network="PlainConvUNet", mirror_axes=(2,), folds=(0, 1, 2), dataset="Dataset901_Tiny"
    )
    for name in ("raw", "preprocessed", "results"):
        patch.setenv(f"nnUNet_{name}", str(root / name))
    cases = list_training_cases(raw, read_dataset_json(raw))
    generator = np.random.default_rng(0)
    folds: dict[int, list[str]] = {}
    for index, case in enumerate(cases):
        folds.setdefault(index % 3, []).append(case.id)
        target = model / f"fold_{index % 3}" / "validation" / f"{case.id}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        _spoil_file(case.label_file, target, generator)
    return model, folds


def _spoil_file(source: Path, target: Path, generator: np.random.Generator) -> None:
    image = SimpleITK.ReadImage(str(source))
    spoilt = SimpleITK.GetImageFromArray(add_blobs(SimpleITK.GetArrayFromImage(image), generator))
    spoilt.CopyInformation(image)
    SimpleITK.WriteImage(spoilt, str(target))


def _pack(removal: Removal) -> dict:
    return {"keep_largest": removal.keep_largest, "min_size_mm3": removal.min_size_mm3}


def _measure_dice(mask: np.ndarray, reference: np.ndarray, value: int) -> float:
    own, true = mask[reference != 3] == value, reference[reference != 3] == value
    return 2 * (own & true).sum() / (own.sum() + true.sum())
