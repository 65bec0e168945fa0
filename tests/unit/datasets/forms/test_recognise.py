"""In which form a dataset comes."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.forms.recognise import recognise_form
from stu_pipeline.errors import DataError
from tests.foreign_forms import write_pair, write_task
from tests.synthetic import write_dataset_json, write_tiny_dataset


def test_each_form_is_recognised(tmp_path):
    v2 = write_tiny_dataset(tmp_path, num_cases=1)
    msd = write_task(tmp_path / "Task04_Hippocampus", num_cases=1)
    v1 = write_task(tmp_path / "Task004_Hippocampus", num_cases=1, is_v1=True)
    forms = [recognise_form(path) for path in (v2, msd, v1)]
    assert [form.kind for form in forms] == ["nnunet_v2", "msd", "nnunet_v1"]
    assert [form.is_foreign for form in forms] == [False, True, True]
    assert recognise_form(msd / "dataset.json") == forms[1]


@pytest.mark.parametrize("content", [{}, {"labels": {"background": 0}}, {"modality": {}, "channel_names": {}}])
def test_a_broken_v2_description_is_left_to_its_own_reader(tmp_path, content):
    write_dataset_json(tmp_path / "Dataset007_X", **content)
    assert recognise_form(tmp_path / "Dataset007_X").kind == "nnunet_v2"


def test_a_dataset_without_its_description_is_v2_by_name(tmp_path):
    (tmp_path / "Dataset007_X").mkdir()
    assert recognise_form(tmp_path / "Dataset007_X").kind == "nnunet_v2"


def test_a_folder_that_is_no_dataset_gets_the_command_for_a_folder_pair(tmp_path):
    with pytest.raises(DataError, match=r"has no dataset\.json") as error:
        recognise_form(tmp_path)
    assert error.value.hint == "stu plan --images FOLDER --labels FOLDER --dataset-name NAME"
    images, labels = write_pair(tmp_path, ["a"])
    images.rename(tmp_path / "images")
    labels.rename(tmp_path / "masks")
    with pytest.raises(DataError) as error:
        recognise_form(tmp_path)
    assert error.value.hint == (
        f"stu plan --images {tmp_path / 'images'} --labels {tmp_path / 'masks'} --dataset-name NAME"
    )


def test_archives_and_missing_paths_are_named(tmp_path):
    (tmp_path / "Task04.tar").touch()
    with pytest.raises(DataError, match="is a file") as error:
        recognise_form(tmp_path / "Task04.tar")
    assert error.value.hint == "unpack it first"
    with pytest.raises(DataError, match="not found"):
        recognise_form(tmp_path / "nowhere")
