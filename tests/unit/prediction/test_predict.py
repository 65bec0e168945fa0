"""`predict()` on tiny random models: proven masks, continued runs, and one bad case costing one case."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from stu_pipeline.errors import (
    DataError,
    LockedError,
    ModelError,
    NonFiniteError,
    PartialError,
    StorageError,
    UsageError,
)
from stu_pipeline.log import Notice, Progress
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.prediction.config import CaseReport, PredictConfig, PredictResult
from stu_pipeline.prediction.predict import predict
from stu_pipeline.storage import hash_file, hold_lock
from tests.model_folders import write_checkpoint, write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

SHAPE = (10, 18, 20)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index in range(3):
        write_image(tmp_path / "images" / f"case_{index}_0000.nii.gz", seed=index)
    return tmp_path / "images"


def make_model(place: Path, **changes: Any) -> Path:
    return write_model_folder(place / "results", **({"network": "PlainConvUNet", "mirror_axes": (2,)} | changes))


def write_image(path: Path, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Path:
    generator = np.random.default_rng(seed)
    image = make_image(make_label_map(shape, generator=generator), generator=generator)
    return write_volume(path, image, spacing_mm=(2.0, 1.0, 1.0)[-len(shape) :])


def run(source: Path, output: Path, *models: Path, **options: Any) -> PredictResult:
    return predict(PredictConfig(input=source, output=output, models=models, **({"num_workers": 0} | options)))


def read_mask(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def read_report(output: Path) -> dict[str, Any]:
    return json.loads((output / "predictions.json").read_text())["cases"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def test_a_folder_becomes_masks_a_report_and_what_stock_tools_need(tmp_path: Path, model: Path, images: Path):
    output = tmp_path / "out"
    events: list[object] = []
    result = predict(PredictConfig(input=images, output=output, models=(model,)), listen=events.append)
    names = [f"case_{index}.nii.gz" for index in range(3)]
    assert sorted(entry.name for entry in output.iterdir() if not entry.name.startswith(".")) == [
        *names, "dataset.json", "plans.json", "predictions.csv", "predictions.json", "predictions.md", "run.json",
    ]  # fmt: skip
    assert (output / "plans.json").read_bytes() == (model / "plans.json").read_bytes()
    assert (result.num_done, result.num_skipped, result.report) == (3, 0, output / "predictions.json")
    for case, name in zip(result.cases, names, strict=True):
        mask = read_mask(output / name)
        assert mask.shape == SHAPE
        assert case.volumes_ml["label1"] == pytest.approx((mask == 1).sum() * 2 / 1000)
        assert read_report(output)[case.case]["output_sha256"] == hash_file(output / name)
    assert [event.case for event in events if isinstance(event, CaseReport)] == ["case_0", "case_1", "case_2"]
    assert Progress(step="cases", done=3, total=3, item="case_2") in events


def test_loading_ahead_changes_nothing(tmp_path: Path, model: Path, images: Path):
    run(images, tmp_path / "a", model, num_workers=0)
    run(images, tmp_path / "b", model, num_workers=None)
    for index in range(3):
        name = f"case_{index}.nii.gz"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan_0000.nii.gz"])
def test_one_file_becomes_one_file(tmp_path: Path, model: Path, name: str):
    source = write_image(tmp_path / name)
    result = run(source, tmp_path / "out" / "mask.nii.gz", model)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["mask.nii.gz"]
    assert result.report is None
    run(source, tmp_path / "folder", model)
    assert (tmp_path / "folder" / "scan.nii.gz").read_bytes() == (tmp_path / "out" / "mask.nii.gz").read_bytes()


def test_the_mask_keeps_the_ending_of_its_image(tmp_path: Path, model: Path):
    run(write_image(tmp_path / "scan.nrrd"), tmp_path / "out", model)
    assert read_mask(tmp_path / "out" / "scan.nrrd").shape == SHAPE


def test_running_again_skips_what_is_proven(tmp_path: Path, model: Path, images: Path):
    output = tmp_path / "out"
    run(images, output, model)
    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.nii.gz")}
    (output / "case_1.nii.gz").unlink()
    write_image(images / "case_9_0000.nii.gz", seed=9)
    result = run(images, output, model)
    assert {case.case: case.status for case in result.cases} == {
        "case_0": "skipped", "case_1": "done", "case_2": "skipped", "case_9": "done",
    }  # fmt: skip
    assert (output / "case_0.nii.gz").stat().st_mtime_ns == before["case_0.nii.gz"]
    assert read_report(output)["case_0"]["status"] == "done"


def test_a_run_that_was_killed_continues_from_its_journal(tmp_path: Path, model: Path, images: Path):
    output = tmp_path / "out"

    def stop(event: object) -> None:
        if isinstance(event, CaseReport):
            (output / ".stu-tmp-left").write_bytes(b"half a mask")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(PredictConfig(input=images, output=output, models=(model,)), listen=stop)
    # As after kill -9: the report was not written, only the journal.
    entry = json.dumps(read_report(output))
    (output / "predictions.json").unlink()
    (output / ".predictions.journal").write_text(entry + '\n{"case_1": {"outp')
    result = run(images, output, model)
    assert [case.status for case in result.cases] == ["skipped", "done", "done"]
    assert not (output / ".stu-tmp-left").exists()
    assert not (output / ".predictions.journal").exists()


@pytest.mark.parametrize("change", ["mask", "image", "options", "model", "unknown"])
def test_masks_that_are_not_proven_are_refused_unless_overwrite(tmp_path: Path, model: Path, images: Path, change: str):
    output = tmp_path / "out"
    options: dict[str, Any] = {}
    run(images, output, model)
    if change == "mask":
        cut(output / "case_0.nii.gz")
    elif change == "image":
        write_image(images / "case_0_0000.nii.gz", seed=77)
    elif change == "options":
        options = {"tta": "none"}
    elif change == "model":
        model = make_model(tmp_path, seed=8)
    else:
        (output / "predictions.json").unlink()
    before = (output / "case_0.nii.gz").read_bytes()
    with pytest.raises(UsageError, match="in the way") as caught:
        run(images, output, model, **options)
    assert "--overwrite" in caught.value.hint
    assert (output / "case_0.nii.gz").read_bytes() == before
    assert run(images, output, model, overwrite=True, **options).num_done == 3


def test_one_damaged_case_of_three_costs_one_case(tmp_path: Path, model: Path, images: Path):
    cut(images / "case_1_0000.nii.gz")
    output = tmp_path / "out"
    with pytest.raises(PartialError, match="1 of 3 cases failed: case_1") as caught:
        run(images, output, model, report=tmp_path / "report.json")
    assert caught.value.exit_code == 10
    assert sorted(path.name for path in output.glob("*.nii.gz")) == ["case_0.nii.gz", "case_2.nii.gz"]
    report = read_report(output)
    assert report["case_1"]["status"] == "failed"
    assert "case_1_0000.nii.gz" in report["case_1"]["error"]
    assert json.loads((tmp_path / "report.json").read_text())["cases"] == report
    write_image(images / "case_1_0000.nii.gz", seed=1)
    assert [case.status for case in run(images, output, model).cases] == ["skipped", "done", "skipped"]


def test_when_every_case_is_damaged_the_error_is_about_the_data(tmp_path: Path, model: Path, images: Path):
    for path in images.iterdir():
        cut(path)
    with pytest.raises(DataError, match="all 3 cases failed") as caught:
        run(images, tmp_path / "out", model)
    assert len(caught.value.details) == 3


def test_voxels_that_are_not_finite_are_refused(tmp_path: Path, model: Path):
    image = np.zeros(SHAPE, dtype=np.float32)
    image[1, 2, 3] = np.nan
    source = write_volume(tmp_path / "scan.nii.gz", image)
    with pytest.raises(DataError, match="NaN"):
        run(source, tmp_path / "out", model)
    assert not (tmp_path / "out" / "scan.nii.gz").exists()


def test_an_empty_folder_is_an_error(tmp_path: Path, model: Path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no cases found"):
        run(tmp_path / "images", tmp_path / "out", model)


def test_an_ending_the_model_cannot_read_is_an_error(tmp_path: Path, model: Path):
    source = write_volume(tmp_path / "scan.png", np.zeros((20, 20), dtype=np.uint8))
    with pytest.raises(DataError, match=r"ends in \.png, but the model reads"):
        run(source, tmp_path / "out", model)


def test_a_missing_channel_is_named(tmp_path: Path):
    model = make_model(tmp_path, num_channels=2)
    source = write_image(tmp_path / "images" / "scan_0000.nii.gz")
    with pytest.raises(DataError, match="scan_0001"):
        run(source.parent, tmp_path / "out", model)


def test_colour_pictures_for_a_grey_model_are_refused(tmp_path: Path):
    model = make_model(
        tmp_path, patch=(16, 16), spacing_mm=(1.0, 1.0), mirror_axes=(), reader="NaturalImage2DIO", file_ending=".png"
    )
    import imageio.v3

    imageio.v3.imwrite(tmp_path / "scan.png", np.zeros((20, 20, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="has 3 channels, the model expects 1"):
        run(tmp_path / "scan.png", tmp_path / "out", model)


def test_logits_that_are_not_finite_are_an_error_and_no_empty_mask(tmp_path: Path, model: Path, images: Path):
    path = model / "fold_0" / "checkpoint_final.pth"
    weights = dict(read_checkpoint(path)["network_weights"])
    for name in [name for name in weights if "seg_layers" in name and name.endswith("weight")]:
        weights[name] = torch.full_like(weights[name], 3e38)
    write_checkpoint(path, weights, "3d_fullres")
    with pytest.raises(NonFiniteError, match="all 3 cases failed"):
        run(images, tmp_path / "out", model)
    assert list((tmp_path / "out").glob("*.nii.gz")) == []


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(tmp_path: Path, model: Path, images: Path):
    output = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(event: object) -> None:
        if isinstance(event, CaseReport):
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))

    try:
        with pytest.raises(StorageError):
            predict(PredictConfig(input=images, output=output, models=(model,)), listen=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in output.glob("*.nii.gz")) == ["case_0.nii.gz"]
    assert [case.status for case in run(images, output, model).cases] == ["skipped", "done", "done"]


@pytest.mark.parametrize("place", ["images", "images/case_0_0000.nii.gz"])
def test_inputs_are_never_in_danger(tmp_path: Path, model: Path, images: Path, place: str):
    with pytest.raises(UsageError):
        run(images, tmp_path / place, model)
    with pytest.raises(UsageError):
        run(images / "case_0_0000.nii.gz", tmp_path / place, model, overwrite=True)


def test_another_run_in_the_same_folder_is_locked_out(tmp_path: Path, model: Path, images: Path):
    output = tmp_path / "out"
    output.mkdir()
    with hold_lock(output / ".lock", what="the output folder"), pytest.raises(LockedError):
        run(images, output, model)


def test_a_plan_of_another_model_in_the_output_is_kept_and_said(tmp_path: Path, model: Path, images: Path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "plans.json").write_text("{}")
    events: list[object] = []
    predict(PredictConfig(input=images, output=output, models=(model,)), listen=events.append)
    assert (output / "plans.json").read_text() == "{}"
    assert any(isinstance(event, Notice) and event.is_warning and "plans.json" in event.text for event in events)


def test_folds_average_their_logits(tmp_path: Path, images: Path):
    both = make_model(tmp_path / "both", folds=(0, 1), seed=3)
    run(images, tmp_path / "out", both, probabilities="npz", tta="none")
    logits = []
    for fold in (0, 1):
        run(images, tmp_path / f"out{fold}", both, folds=(fold,), probabilities="npz", tta="none")
        logits.append(np.log(np.load(tmp_path / f"out{fold}" / "case_0.npz")["probabilities"]))
    found = np.load(tmp_path / "out" / "case_0.npz")["probabilities"]
    mean = np.exp(np.mean(logits, axis=0))
    np.testing.assert_allclose(found, mean / mean.sum(axis=0), atol=1e-4)


@pytest.mark.parametrize("weights", [None, (1.0, 3.0)])
def test_models_average_their_probabilities_on_the_images_grid(tmp_path: Path, images: Path, weights):
    first = make_model(tmp_path, plan_name="aPlans", spacing_mm=(2.0, 1.3, 1.3))
    second = make_model(tmp_path, plan_name="bPlans", network="STUNet", transpose=(1, 0, 2), seed=4)
    parts = []
    for index, model in enumerate((first, second)):
        run(images, tmp_path / f"out{index}", model, probabilities="npz")
        parts.append(np.load(tmp_path / f"out{index}" / "case_2.npz")["probabilities"])
    run(images, tmp_path / "out", first, second, probabilities="npz", model_weights=weights)
    expected = np.average(parts, axis=0, weights=weights)
    np.testing.assert_allclose(np.load(tmp_path / "out" / "case_2.npz")["probabilities"], expected, atol=1e-6)
    mask = read_mask(tmp_path / "out" / "case_2.nii.gz")
    assert (mask == expected.argmax(axis=0)).mean() > 0.9999
    assert (mask != read_mask(tmp_path / "out0" / "case_2.nii.gz")).any()


def test_missing_probabilities_are_made_again(tmp_path: Path, model: Path, images: Path):
    run(images, tmp_path / "out", model, probabilities="npz")
    (tmp_path / "out" / "case_0.npz").unlink()
    result = run(images, tmp_path / "out", model, probabilities="npz")
    assert [case.status for case in result.cases] == ["done", "skipped", "skipped"]


def test_models_with_other_labels_are_no_ensemble(tmp_path: Path, images: Path):
    first = make_model(tmp_path, plan_name="aPlans")
    labels = {"background": 0, "label1": 1, "tumour": 2}
    second = make_model(tmp_path, plan_name="bPlans", labels=labels)
    with pytest.raises(ModelError, match="different labels") as caught:
        run(images, tmp_path / "out", first, second)
    assert any("'tumour' is absent in" in detail for detail in caught.value.details)


def test_regions_are_painted_in_order_and_the_ignore_label_never(tmp_path: Path, images: Path):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "tip": 3, "ignore": 4}
    model = make_model(tmp_path, labels=labels, regions_class_order=(1, 2, 3))
    result = run(images, tmp_path / "out", model, probabilities="npz")
    mask = read_mask(tmp_path / "out" / "case_0.nii.gz")
    whole, core, tip = np.load(tmp_path / "out" / "case_0.npz")["probabilities"] > 0.5
    np.testing.assert_array_equal(mask, np.where(tip, 3, np.where(core, 2, np.where(whole, 1, 0))))
    assert set(result.cases[0].volumes_ml) == {"whole", "core", "tip"}


def test_an_empty_mask_is_said(tmp_path: Path, model: Path, images: Path):
    path = model / "fold_0" / "checkpoint_final.pth"
    weights = dict(read_checkpoint(path)["network_weights"])
    for name in [name for name in weights if "seg_layers" in name and name.endswith("bias")]:
        weights[name] = torch.tensor([1e4, 0.0, 0.0])
    write_checkpoint(path, weights, "3d_fullres")
    result = run(images, tmp_path / "out", model)
    assert result.cases[0].warnings == ("the mask is empty",)
    assert result.cases[0].volumes_ml == {"label1": 0.0, "label2": 0.0}


def test_a_checkpoint_with_code_is_refused_before_any_case(tmp_path: Path, model: Path, images: Path):
    class Bomb:
        def __reduce__(self):
            return exec, ("raise SystemExit",)

    write_checkpoint(model / "fold_0" / "checkpoint_final.pth", {"a": Bomb()}, "3d_fullres")  # type: ignore[dict-item]
    with pytest.raises(ModelError, match="more than weights"):
        run(images, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_volumes_of_one_voxel_and_one_slice_are_predicted(tmp_path: Path, model: Path):
    for index, shape in enumerate([(1, 1, 1), (1, 20, 18), (40, 3, 2)]):
        write_image(tmp_path / "images" / f"case_{index}.nii.gz", shape=shape)
    result = run(tmp_path / "images", tmp_path / "out", model)
    assert [read_mask(case.output).shape for case in result.cases if case.output] == [
        (1, 1, 1),
        (1, 20, 18),
        (40, 3, 2),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"step": 0},
        {"tta": "some"},
        {"model_weights": (1.0, 2.0)},
        {"model_weights": (0.0,)},
        {"folds": ()},
        {"precision": "fp8"},
        {"device": "tpu"},
        {"models": ()},
        {"num_workers": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]):
    with pytest.raises(UsageError):
        PredictConfig(**({"input": Path("a"), "output": Path("b"), "models": (Path("m"),)} | options))


def test_half_precision_needs_a_gpu(tmp_path: Path, model: Path, images: Path):
    with pytest.raises(UsageError, match="'fp16' needs a GPU"):
        run(images, tmp_path / "out", model, device="cpu", precision="fp16")


def test_bf16_masks_are_close_to_float32(tmp_path: Path, images: Path, model: Path):
    run(images, tmp_path / "a", model)
    run(images, tmp_path / "b", model, precision="bf16")
    equal = read_mask(tmp_path / "a" / "case_0.nii.gz") == read_mask(tmp_path / "b" / "case_0.nii.gz")
    assert equal.mean() > 0.9


def test_a_folder_of_somebody_else_beside_a_mask_stays(tmp_path: Path, model: Path, images: Path):
    mine = tmp_path / "out" / "case_0_labels" / "notes.nii.gz"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    run(images, tmp_path / "out", model)
    run(images, tmp_path / "out", model, overwrite=True)
    assert mine.read_bytes() == b"mine"


def test_label_files_are_renewed_with_the_mask(tmp_path: Path, model: Path, images: Path):
    run(images, tmp_path / "out", model, per_label_files=True)
    folder = tmp_path / "out" / "case_0_labels"
    assert sorted(path.name for path in folder.iterdir()) == ["label1.nii.gz", "label2.nii.gz"]
    (folder / "label1.nii.gz").rename(folder / "old.nii.gz")
    run(images, tmp_path / "out", model, per_label_files=True, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["label1.nii.gz", "label2.nii.gz"]
