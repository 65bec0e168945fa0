import subprocess
import sys

import numpy as np
import pytest

from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.cases import CasePair
from stu_pipeline.evaluation.labels import label_values
from stu_pipeline.evaluation.lesions import LesionRule
from stu_pipeline.evaluation.scoring import ScoringRules, score_pair, score_pairs
from tests.synthetic import make_label_map, write_volume

ANY = ScoringRules(labels=None, tolerance_mm=1.0)


def write_pair(folder, case="a", *, ending=".nii.gz", prediction=None, **geometry):
    labels = make_label_map((8, 10, 12)).astype(np.uint8)
    prediction = labels if prediction is None else prediction
    return CasePair(
        case=case,
        reference=write_volume(folder / "r" / f"{case}{ending}", labels, spacing_mm=(2.0, 1.0, 1.0)),
        prediction=write_volume(
            folder / "p" / f"{case}{ending}", prediction, **({"spacing_mm": (2.0, 1.0, 1.0)} | geometry)
        ),
    )


def test_a_case_is_scored_from_its_files(tmp_path):
    scored = score_pair(write_pair(tmp_path), ANY)
    assert {key: scores.dice for key, scores in scored.scores.items()} == {"1": 1.0, "2": 1.0}
    assert scored.scores["1"].volume_ref_ml == pytest.approx(scored.scores["1"].n_ref * 2 / 1000)


def test_distances_are_in_millimetres_of_the_file(tmp_path):
    moved = np.roll(make_label_map((8, 10, 12)).astype(np.uint8), 1, axis=0)
    assert score_pair(write_pair(tmp_path, prediction=moved), ANY).scores["1"].surface.hd95_mm == pytest.approx(2.0)


def test_lesions_are_sized_in_cubic_millimetres_of_the_file(tmp_path):
    pair = write_pair(tmp_path)
    (num_voxels,) = {scores.n_ref for key, scores in score_pair(pair, ANY).scores.items() if key == "1"}
    for size, expected in ((2.0 * num_voxels, 1), (2.0 * num_voxels + 1, 0)):
        rules = ScoringRules(labels=None, tolerance_mm=None, lesion_rule=LesionRule(min_size_mm3=size))
        scored = score_pair(pair, rules)
        assert scored.scores["1"].lesions.tp == expected
        assert scored.find_scores("9", with_surface=False, with_lesions=True).lesions.tp == 0


@pytest.mark.parametrize(
    ("geometry", "problem"),
    [
        ({"spacing_mm": (2.5, 1.0, 1.0)}, "spacing 2.5, 1, 1 differs from 2, 1, 1 mm"),
        ({"origin": (5.0, 0.0, 0.0)}, "origin 5, 0, 0 differs from 0, 0, 0 mm"),
        ({"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}, "direction differs by 3.14 rad"),
        ({"prediction": np.zeros((8, 10, 11), dtype=np.uint8)}, "shape 8x10x11 differs from 8x10x12"),
    ],
)
def test_a_differing_grid_names_the_case_and_both_values(tmp_path, geometry, problem):
    with pytest.raises(DataError, match=f"case 'a': the prediction's grid is not the reference's: {problem}"):
        score_pair(write_pair(tmp_path, **geometry), ANY)


def test_header_noise_is_no_difference(tmp_path):
    pair = write_pair(tmp_path, spacing_mm=(2.00001, 1.0, 1.0), origin=(1e-4, 0.0, 0.0))
    assert score_pair(pair, ANY).scores["1"].dice == 1.0


def test_unknown_label_values_are_named(tmp_path):
    wrong = make_label_map((8, 10, 12)).astype(np.uint8)
    wrong[0, 0, 0] = 9
    pair = write_pair(tmp_path, prediction=wrong)
    rules = ScoringRules(labels=label_values([1, 2]), tolerance_mm=None)
    with pytest.raises(DataError, match="case 'a': the prediction has unknown label values 9, expected 0, 1, 2"):
        score_pair(pair, rules)


def test_an_image_passed_for_a_label_map_is_refused(tmp_path):
    image = np.arange(8 * 10 * 12, dtype=np.uint16).reshape(8, 10, 12) * 2
    pair = write_pair(tmp_path, prediction=np.concatenate([image, image + 1]))
    pair = CasePair(case="a", reference=pair.prediction, prediction=pair.prediction)
    with pytest.raises(DataError, match="1920 distinct values, which looks like an image"):
        score_pair(pair, ANY)


def test_a_cut_file_is_an_error_of_its_case_only(tmp_path):
    good, bad = write_pair(tmp_path, "good"), write_pair(tmp_path, "bad")
    bad.prediction.write_bytes(bad.prediction.read_bytes()[:-20])
    outcomes = list(score_pairs([bad, good], ANY))
    assert isinstance(outcomes[0], DataError)
    assert "bad.nii.gz" in str(outcomes[0])
    assert outcomes[1].scores["1"].dice == 1.0


def test_pictures_are_scored_as_flat_images(tmp_path):
    square = np.zeros((1, 20, 20), dtype=np.uint8)
    square[0, 5:15, 5:15] = 1
    moved = np.roll(square, 2, axis=2)
    pair = CasePair(
        case="a",
        reference=write_volume(tmp_path / "r.png", square),
        prediction=write_volume(tmp_path / "p.png", moved),
    )
    scores = score_pair(pair, ANY).scores["1"]
    assert scores.dice == pytest.approx(0.8)
    assert scores.surface.hd95_mm == pytest.approx(2.0)
    assert scores.volume_ref_ml == pytest.approx(0.1)  # one slice counts as 1 mm thick


def test_worker_processes_give_the_same_scores(tmp_path):
    pairs = [write_pair(tmp_path, f"case_{index}") for index in range(8)]
    pairs[3].prediction.write_bytes(b"no image")
    alone = {str(outcome): None for outcome in score_pairs(pairs, ANY, num_workers=1)}
    shared = {str(outcome): None for outcome in score_pairs(pairs, ANY, num_workers=2)}
    assert alone.keys() == shared.keys()
    assert len(alone) == 8


def test_what_a_worker_loads_holds_no_torch():
    code = "import sys, stu_pipeline.evaluation.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
