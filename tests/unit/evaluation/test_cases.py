import pytest

from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.cases import match_cases


def make_folder(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_cases_are_matched_whatever_their_endings(tmp_path):
    reference = make_folder(tmp_path / "r", "a.nii.gz", "b.mha", "c.v2.nrrd")
    prediction = make_folder(tmp_path / "p", "a.nii", "b.nii.gz", "c.v2.nii.gz", "summary.json", ".stu-tmp-x.nii.gz")
    match = match_cases(reference, prediction)
    assert [(pair.case, pair.prediction.name) for pair in match.pairs] == [
        ("a", "a.nii"),
        ("b", "b.nii.gz"),
        ("c.v2", "c.v2.nii.gz"),
    ]
    assert (match.missing, match.extra) == ((), ())


def test_missing_predictions_are_named(tmp_path):
    reference = make_folder(tmp_path / "r", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    prediction = make_folder(tmp_path / "p", "b.nii.gz")
    with pytest.raises(DataError, match="2 of 3 cases have no prediction: 'a', 'c'") as caught:
        match_cases(reference, prediction)
    assert "--allow-missing" in caught.value.hint
    match = match_cases(reference, prediction, allow_missing=True)
    assert ([pair.case for pair in match.pairs], match.missing) == (["b"], ("a", "c"))


def test_many_missing_predictions_are_listed_in_full(tmp_path):
    reference = make_folder(tmp_path / "r", *(f"case_{i}.nii.gz" for i in range(9)))
    prediction = make_folder(tmp_path / "p", "case_0.nii.gz")
    with pytest.raises(DataError, match="and 3 more") as caught:
        match_cases(reference, prediction)
    assert len(caught.value.details) == 8


def test_extra_predictions_are_reported(tmp_path):
    match = match_cases(make_folder(tmp_path / "r", "a.nii.gz"), make_folder(tmp_path / "p", "a.nii.gz", "z.nii.gz"))
    assert match.extra == ("z",)


def test_two_files_are_one_case_whatever_their_names(tmp_path):
    reference = make_folder(tmp_path / "r", "truth.nii.gz") / "truth.nii.gz"
    prediction = make_folder(tmp_path / "p", "mine.mha") / "mine.mha"
    assert [pair.case for pair in match_cases(reference, prediction).pairs] == ["truth"]


def test_a_file_and_a_folder_are_the_case_of_the_file(tmp_path):
    reference = make_folder(tmp_path / "r", "a.nii.gz", "b.nii.gz")
    prediction = make_folder(tmp_path / "p", "a.nii.gz", "b.nii.gz")
    for match in (match_cases(reference, prediction / "b.nii.gz"), match_cases(reference / "b.nii.gz", prediction)):
        assert [pair.case for pair in match.pairs] == ["b"]
        assert (match.missing, match.extra) == ((), ())


def test_no_common_name_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no prediction has the name of a reference"):
        match_cases(
            make_folder(tmp_path / "r", "a.nii.gz"), make_folder(tmp_path / "p", "b.nii.gz"), allow_missing=True
        )


@pytest.mark.parametrize("empty", ["r", "p"])
def test_a_folder_without_label_maps_is_an_error(tmp_path, empty):
    folders = [make_folder(tmp_path / name, "notes.txt" if name == empty else "a.nii.gz") for name in "rp"]
    with pytest.raises(DataError, match="no label maps in the"):
        match_cases(*folders)


def test_a_path_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(DataError, match="reference 'nowhere' not found"):
        match_cases(tmp_path / "nowhere", make_folder(tmp_path / "p", "a.nii.gz"))


def test_a_file_of_another_kind_is_an_error(tmp_path):
    folder = make_folder(tmp_path / "r", "a.npz", "a.nii.gz")
    with pytest.raises(DataError, match=r"prediction 'a.npz' is not a label map"):
        match_cases(folder / "a.nii.gz", folder / "a.npz")


def test_a_case_that_is_there_twice_is_an_error_unless_the_dataset_decides(tmp_path):
    reference = make_folder(tmp_path / "r", "a.nii.gz")
    prediction = make_folder(tmp_path / "p", "a.nii.gz", "a.png")
    with pytest.raises(DataError, match=r"a case is there 2 times: 'a.nii.gz', 'a.png'"):
        match_cases(reference, prediction)
    assert match_cases(reference, prediction, file_ending=".nii.gz").pairs[0].prediction.name == "a.nii.gz"
