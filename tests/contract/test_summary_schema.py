"""What we assume about nnU-Net's `summary.json` and about those who read it."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("nnunetv2")

from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from stu_pipeline.evaluation.evaluate import EvaluateConfig, evaluate
from stu_pipeline.evaluation.labels import read_labels
from tests.synthetic import write_dataset_json, write_volume

STOCK_METRICS = ["Dice", "IoU", "FP", "TP", "FN", "TN", "n_pred", "n_ref"]
PLAIN = {"background": 0, "left": 1, "right": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}


def write_case_folders(root, labels):
    """Two noisy cases; label 2 is in the first only, and missed there."""
    highest = 3 if "ignore" in labels else 1
    generator = np.random.default_rng(3)
    for index in range(2):
        reference = generator.integers(0, highest + 1, (6, 9, 12)).astype(np.uint8)
        reference[reference == 2] = 0
        prediction = np.where(generator.random(reference.shape) > 0.3, reference, 1).astype(np.uint8)
        if index == 0:
            reference[0, 0, :4] = 2
        write_volume(root / "labelsTr" / f"case_{index}.nii.gz", reference, spacing_mm=(3.0, 1.0, 1.0))
        write_volume(root / "pred" / f"case_{index}.nii.gz", prediction, spacing_mm=(3.0, 1.0, 1.0))
    write_dataset_json(root, labels=labels, file_ending=".nii.gz")
    return root / "labelsTr", root / "pred"


def run_stock(reference, prediction, labels, output):
    manager = LabelManager(labels, regions_class_order=[1, 2] if "whole" in labels else None)
    compute_metrics_on_folder(
        str(reference),
        str(prediction),
        str(output),
        SimpleITKIO(),
        ".nii.gz",
        manager.foreground_regions if manager.has_regions else manager.foreground_labels,
        manager.ignore_label,
        num_processes=1,
    )
    return json.loads(output.read_text())


def evaluate_ours(reference, prediction):
    return evaluate(EvaluateConfig(reference=reference, prediction=prediction)).summary_path


@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions and ignore"])
def test_counts_and_overlaps_equal_stock(tmp_path, labels):
    folders = write_case_folders(tmp_path, labels)
    stock = run_stock(*folders, labels, tmp_path / "stock.json")
    ours = json.loads(evaluate_ours(*folders).read_text())
    assert list(ours["mean"]) == list(stock["mean"])
    for stock_case, our_case in zip(stock["metric_per_case"], ours["metric_per_case"], strict=True):
        assert our_case["reference_file"] == stock_case["reference_file"]
        assert our_case["prediction_file"] == stock_case["prediction_file"]
        for key, stock_metrics in stock_case["metrics"].items():
            assert sorted(stock_metrics) == sorted(STOCK_METRICS)
            for name, value in stock_metrics.items():
                ours_value = our_case["metrics"][key][name]
                assert (ours_value is None) if math.isnan(value) else ours_value == pytest.approx(value, abs=1e-12)
    for key, stock_metrics in {**stock["mean"], "all": stock["foreground_mean"]}.items():
        our_metrics = ours["foreground_mean"] if key == "all" else ours["mean"][key]
        assert {name: our_metrics[name] for name in STOCK_METRICS} == pytest.approx(stock_metrics)


@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions and ignore"])
def test_stock_reads_our_summary(tmp_path, labels):
    path = evaluate_ours(*write_case_folders(tmp_path, labels))
    loaded = load_summary_json(str(path))
    values = [label.values for label in read_labels(tmp_path / "dataset.json").labels]
    expected = [value if "whole" in labels else value[0] for value in values]
    assert list(loaded["mean"]) == expected
    assert list(loaded["metric_per_case"][0]["metrics"]) == expected


def test_what_stock_compares_is_a_number_where_a_label_occurs_at_all(tmp_path):
    # find_best_configuration compares foreground_mean, determine_postprocessing compares mean as well; neither
    # reads metric_per_case, where what cannot be measured is null.
    loaded = load_summary_json(str(evaluate_ours(*write_case_folders(tmp_path, PLAIN))))
    assert loaded["metric_per_case"][1]["metrics"][2]["Dice"] is None
    assert all(isinstance(value, float) for value in (loaded["foreground_mean"]["Dice"], loaded["mean"][2]["Dice"]))


def test_stock_postprocessing_works_from_our_summary(tmp_path, capsys):
    reference, prediction = write_case_folders(tmp_path, PLAIN)
    path = evaluate_ours(reference, prediction)
    before = path.read_text()
    plans = {"image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager"}
    dataset_json = json.loads((tmp_path / "dataset.json").read_text())
    determine_postprocessing(
        str(prediction), str(reference), plans, dataset_json, num_processes=1, keep_postprocessed_files=False
    )
    written = json.loads((prediction / "postprocessing.json").read_text())
    assert written["input_folder"]["foreground_mean"] == json.loads(before)["foreground_mean"]
    assert path.read_text() == before


def test_a_label_that_never_occurs_is_null_where_stock_writes_nan(tmp_path):
    # Stock's foreground mean is lost to one such label (nnUNet#2976); ours is not. The price of JSON without
    # NaN: stock code that compares this one label's mean fails on None.
    labels = PLAIN | {"rare": 3}
    folders = write_case_folders(tmp_path, labels)
    with pytest.warns(RuntimeWarning, match="Mean of empty slice"):
        stock = run_stock(*folders, labels, tmp_path / "stock.json")
    loaded = load_summary_json(str(evaluate_ours(*folders)))
    assert math.isnan(stock["foreground_mean"]["Dice"])
    assert loaded["foreground_mean"]["Dice"] == pytest.approx(
        (stock["mean"]["1"]["Dice"] + stock["mean"]["2"]["Dice"]) / 2
    )
    assert loaded["mean"][3]["Dice"] is None
