"""`calibrate()` and `stu calibrate`: from a cross-validation to `quality.json`, and back into a prediction."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline import CalibrateConfig, calibrate
from stu_pipeline.cli import run
from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.errors import DataError, ModelError, UsageError
from stu_pipeline.log import Notice
from stu_pipeline.prediction.calibration.cases import list_validated_folds, parse_label_key, read_scores
from stu_pipeline.prediction.models.model_folder import open_model_folder
from stu_pipeline.prediction.quality.document import QUALITY_FILE, find_calibration, read_quality
from stu_pipeline.prediction.quality.estimate import estimate_quality
from tests.model_folders import write_model_folder
from tests.synthetic import write_tiny_dataset

NUM_CASES = 12
FOLDS = (0, 1, 2)


def write_summary(model: Path, fold: int, names: list[str], *, keys=("1", "2"), seed=0) -> Path:
    """Write what a validation leaves: Dice that have nothing to do with the network, one label absent once."""
    generator = np.random.default_rng(seed)
    cases = [
        {
            "prediction_file": f"somewhere/{name}.nii.gz",
            "reference_file": f"elsewhere/{name}.nii.gz",
            "metrics": {key: {"Dice": float(generator.uniform(0.5, 0.9))} for key in keys},
        }
        for name in names
    ]
    cases[0]["metrics"][keys[-1]]["Dice"] = float("nan")
    path = model / f"fold_{fold}" / "validation" / "summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metric_per_case": cases}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a workspace with a calibrated model once."""
    root = tmp_path_factory.mktemp("template")
    raw = write_tiny_dataset(root / "raw", 901, num_cases=NUM_CASES, shape=(8, 16, 16))
    model = write_model_folder(
        root / "results", network="PlainConvUNet", mirror_axes=(2,), folds=FOLDS, dataset="Dataset901_Tiny"
    )
    names = [case.id for case in list_training_cases(raw, read_dataset_json(raw))]
    for fold in FOLDS:
        write_summary(model, fold, names[fold::3], seed=fold)
    with pytest.MonkeyPatch.context() as patch:
        set_workspace(patch, root)
        calibrate(configure(model))
    return root


@pytest.fixture
def calibrated(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model folder that was calibrated."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    set_workspace(monkeypatch, tmp_path)
    return next((tmp_path / "results" / "Dataset901_Tiny").iterdir())


@pytest.fixture
def model(calibrated: Path) -> Path:
    """Return a model folder that was not."""
    for file in (calibrated / QUALITY_FILE, *calibrated.glob("fold_*/quality_features.json")):
        file.unlink()
    return calibrated


def set_workspace(patch: pytest.MonkeyPatch, root: Path) -> None:
    for name in ("raw", "preprocessed", "results"):
        patch.setenv(f"nnUNet_{name}", str(root / name))


def configure(model: Path, **changes) -> CalibrateConfig:
    return CalibrateConfig(model=model, **{"postprocessing": False, "tta": "none"} | changes)


def identify(model: Path) -> dict[str, str]:
    return {str(item.fold): item.identity for item in open_model_folder(model).folds}


def pretend_useful(model: Path, **changes) -> None:
    path = model / QUALITY_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_useful": True} | changes))


def test_every_case_is_measured_by_the_fold_that_was_not_trained_on_it(model: Path):
    result = calibrate(configure(model))
    assert (result.folds, result.num_cases, result.skipped) == (FOLDS, NUM_CASES, ())
    content = json.loads((model / QUALITY_FILE).read_text())
    assert content == json.loads(json.dumps(result.quality))
    assert content["is_useful"] is False  # random weights and random scores
    assert content["checkpoints"] == identify(model) and content["groups"] == "folds"
    assert content["num_cases"] == NUM_CASES and content["proven_error_rate"] > 2 * content["error_rate"]
    measured = [json.loads((model / f"fold_{fold}" / "quality_features.json").read_text())["cases"] for fold in FOLDS]
    assert [len(cases) for cases in measured] == [4, 4, 4]
    assert len({name for cases in measured for name in cases}) == NUM_CASES
    # Another fold has other weights, so the same case would have been measured otherwise.
    assert {channel for cases in measured for case in cases.values() for channel in case} == {"1", "2"}


def test_what_was_measured_is_not_measured_again_unless_weights_or_settings_change(model: Path, tmp_path: Path):
    first = calibrate(configure(model)).quality
    for file in (tmp_path / "raw" / "Dataset901_Tiny" / "imagesTr").iterdir():
        file.write_bytes(b"not needed any more")
    notices: list[str] = []
    again = calibrate(
        configure(model, error_rate=0.2), listen=lambda e: notices.append(e.text) if isinstance(e, Notice) else None
    )
    assert [f"fold {fold} was measured before" in notices for fold in FOLDS] == [True] * 3
    assert again.quality["estimator"] == first["estimator"] and again.quality["error_rate"] == 0.2
    with pytest.raises(DataError, match="at least 10 validation cases"):
        calibrate(configure(model, step=0.75))  # other settings, and the images are gone


def test_a_broken_image_costs_one_case(model: Path, tmp_path: Path):
    (tmp_path / "raw" / "Dataset901_Tiny" / "imagesTr").joinpath("case_003_0000.nii.gz").write_bytes(b"broken")
    result = calibrate(configure(model))
    assert len(result.skipped) == 1 and result.skipped[0].startswith("case_003: ")
    assert result.quality["num_cases"] == NUM_CASES - 1


def test_a_mended_image_is_the_only_one_measured_later(model: Path, tmp_path: Path):
    images = tmp_path / "raw" / "Dataset901_Tiny" / "imagesTr"
    good = (images / "case_003_0000.nii.gz").read_bytes()
    (images / "case_003_0000.nii.gz").write_bytes(b"broken")
    calibrate(configure(model))
    for file in images.iterdir():
        file.write_bytes(good if "case_003" in file.name else b"not needed any more")
    result = calibrate(configure(model))
    assert result.skipped == () and result.quality["num_cases"] == NUM_CASES


def test_a_prediction_finds_the_calibration_of_its_checkpoints(calibrated: Path):
    assert find_calibration(calibrated.parent, {}) == (None, "")
    calibration, reason = find_calibration(calibrated, identify(calibrated))
    assert calibration is None and "no better than the mean" in reason
    pretend_useful(calibrated)
    calibration, reason = find_calibration(calibrated, identify(calibrated))
    assert reason == "" and calibration == read_quality(calibrated / QUALITY_FILE)
    one_fold = {"1": identify(calibrated)["1"]}
    assert find_calibration(calibrated, one_fold)[0] is not None
    assert find_calibration(calibrated, identify(calibrated) | {"4": "abc"})[1].startswith(
        "'quality.json' is not used: fold 4"
    )


def test_a_trained_again_fold_makes_the_calibration_stale(calibrated: Path):
    pretend_useful(calibrated)
    other = write_model_folder(
        calibrated.parents[1] / "other", network="PlainConvUNet", mirror_axes=(2,), folds=(1,), seed=9
    )
    (other / "fold_1" / "checkpoint_final.pth").replace(calibrated / "fold_1" / "checkpoint_final.pth")
    calibration, reason = find_calibration(calibrated, identify(calibrated))
    assert calibration is None
    assert reason == "'quality.json' is not used: fold 1 has another checkpoint since; run stu calibrate again"


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 99},
        {"estimator": {}},
        {"checkpoints": []},
        {"error_rate": "a lot"},
        {"estimator": None},
    ],
)
def test_a_damaged_calibration_is_not_used_and_says_so(calibrated: Path, changes: dict):
    pretend_useful(calibrated, **changes)
    calibration, reason = find_calibration(calibrated, identify(calibrated))
    assert calibration is None and reason.startswith("'quality.json' is not used: ")
    with pytest.raises(DataError) as caught:
        read_quality(calibrated / QUALITY_FILE)
    assert "stu calibrate" in caught.value.hint


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("regression", "slopes"), [0.1]),
        (("regression", "features"), ["os.system"]),
        (("regression", "spreads"), [0.0] * 5),
        (("regression", "intercept"), None),
        (("case_errors",), [[77, 0.1]]),
        (("label_errors",), {}),
    ],
)
def test_numbers_that_cannot_be_are_refused(calibrated: Path, place: tuple, value: object):
    path = calibrated / QUALITY_FILE
    content = json.loads(path.read_text())
    target = content["estimator"]
    for name in place[:-1]:
        target = target[name]
    target[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="is damaged"):
        read_quality(path)


def test_what_is_read_back_estimates_the_same(calibrated: Path):
    calibration = read_quality(calibrated / QUALITY_FILE)
    features = json.loads((calibrated / "fold_0" / "quality_features.json").read_text())["cases"]
    from stu_pipeline.prediction.quality.features import LabelFeatures

    own = {int(channel): LabelFeatures(**values) for channel, values in next(iter(features.values())).items()}
    quality = estimate_quality(own, calibration.estimator, error_rate=0.2)
    assert [label.name for label in quality.labels] == ["label1", "label2"]
    assert all(0 < label.lower_bound <= label.upper_bound <= 1 for label in quality.labels)


def test_two_folds_are_dealt_out_to_groups_of_cases(model: Path):
    (model / "fold_2" / "checkpoint_final.pth").unlink()
    write_summary(model, 1, [f"case_{index:03d}" for index in range(NUM_CASES) if index % 3])
    result = calibrate(configure(model))
    assert result.folds == (0, 1) and result.quality["groups"] == "5 groups of cases of too few folds"
    assert sorted(result.quality["estimator"]["group_regressions"]) == ["0", "1", "2", "3", "4"]


def test_regions_are_calibrated_under_their_own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    set_workspace(monkeypatch, tmp_path)
    write_tiny_dataset(tmp_path / "raw", 901, num_cases=NUM_CASES, shape=(8, 16, 16), regions=True)
    model = write_model_folder(
        tmp_path / "results",
        network="PlainConvUNet",
        labels={"background": 0, "whole": [1, 2], "core": [2]},
        regions_class_order=(1, 2),
        folds=(0,),
    )
    write_summary(model, 0, [f"case_{index:03d}" for index in range(NUM_CASES)], keys=("(1, 2)", "(2,)"))
    labels = calibrate(configure(model)).quality["estimator"]["labels"]
    assert {name: (label["channel"], label["key"]) for name, label in labels.items()} == {
        "whole": (0, [1, 2]),
        "core": (1, [2]),
    }
    assert all(0.5 < label["mean_dice"] < 0.9 for label in labels.values() if label["num_cases"])
    assert sum(label["num_cases"] for label in labels.values()) >= NUM_CASES


def test_a_finished_fold_without_validation_is_named(model: Path):
    (model / "fold_2" / "validation" / "summary.json").unlink()
    write_summary(model, 1, [f"case_{index:03d}" for index in range(NUM_CASES) if index % 3])
    notices: list[str] = []
    calibrate(configure(model), listen=lambda e: notices.append(e.text) if isinstance(e, Notice) else None)
    assert "left out, not validated: fold 2" in notices


def test_no_validated_fold_is_an_error_with_the_command(tmp_path: Path):
    model = write_model_folder(tmp_path, network="PlainConvUNet")
    with pytest.raises(ModelError, match="no fold is finished and validated") as caught:
        list_validated_folds(model)
    assert caught.value.hint == "stu train Dataset901_Tiny --scale S --fold 0"


def test_a_summary_that_is_none_is_refused(tmp_path: Path):
    path = tmp_path / "summary.json"
    path.write_text('{"metric_per_case": [{"metrics": {}}]}')
    with pytest.raises(DataError, match="is not the summary of a validation"):
        read_scores(path)


def test_keys_of_regions_are_read_as_nnunet_spells_them():
    assert [parse_label_key(key) for key in ("3", "(2, 1)", "(3,)")] == [(3,), (1, 2), (3,)]


@pytest.mark.parametrize(
    "options",
    [
        {"error_rate": 0},
        {"error_rate": 1},
        {"accept_dice": 2},
        {"step": 0},
        {"tta": "much"},
        {"num_workers": -1},
        {"quality": False, "postprocessing": False},
    ],
)
def test_configs_that_make_no_sense_are_refused(options: dict):
    with pytest.raises(UsageError):
        CalibrateConfig(model=Path("model"), **options)


def test_post_processing_is_learned_from_the_same_cases(model: Path, tmp_path: Path):
    labels = tmp_path / "raw" / "Dataset901_Tiny" / "labelsTr"
    for fold in FOLDS:
        for name in read_scores(model / f"fold_{fold}" / "validation" / "summary.json"):
            shutil.copy(labels / f"{name}.nii.gz", model / f"fold_{fold}" / "validation")
    result = calibrate(configure(model, quality=False, postprocessing=True))
    assert result.quality is None and result.quality_file is None and not (model / QUALITY_FILE).exists()
    assert result.postprocessing_file == model / "postprocessing.json"
    content = json.loads(result.postprocessing_file.read_text())
    assert content["checkpoints"] == identify(model) and content["rules"] == []  # perfect masks need none
    assert content["evidence"]["num_cases"] == NUM_CASES


def test_the_command_shows_the_table_and_the_next_step(model: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["calibrate", "-d", "901", "--scale", "S", "--tta", "none", "--no-postprocessing"]) == 0
    output = capsys.readouterr().out
    assert "label1" in output and "not useful, predictions go without" in output
    assert output.splitlines()[-1] == f"next: stu predict -i INPUT -o OUTPUT -m {model}"


def test_the_command_refuses_a_scale_beside_a_model(model: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["calibrate", "-m", str(model), "--scale", "S"]) == 2
    assert run(["calibrate"]) == 2
    assert "either -m MODEL_FOLDER or -d DATASET" in capsys.readouterr().err
