"""Labels found in the voxels of label maps."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.datasets.forms.inventory import SourceCase
from stu_pipeline.datasets.forms.label_discovery import find_labels, look_like_hounsfield
from stu_pipeline.errors import DataError
from stu_pipeline.log import Progress, ignore_events
from tests.foreign_forms import write_pair
from tests.synthetic import write_volume


def cases_of(folder):
    return [SourceCase(id=path.name, images=(path,), label=path) for path in sorted(folder.iterdir())]


def test_labels_are_named_after_their_values(tmp_path):
    write_pair(tmp_path, ["a"], values=(0, 3, 300))
    write_pair(tmp_path, ["b"], values=(0, 65535, 3))
    events = []
    labels = find_labels(cases_of(tmp_path / "B"), num_workers=0, listen=events.append)
    assert labels == {"background": 0, "label_3": 3, "label_300": 300, "label_65535": 65535}
    assert events == [
        Progress(step="read label maps", done=1, total=2, item="a.nii.gz"),
        Progress(step="read label maps", done=2, total=2, item="b.nii.gz"),
    ]


def test_every_faulty_label_map_is_named_at_once(tmp_path):
    write_pair(tmp_path, ["a", "b", "c"])
    write_volume(tmp_path / "B" / "a.nii.gz", np.full((3, 4, 5), 1.5, np.float32))
    (tmp_path / "B" / "b.nii.gz").write_bytes((tmp_path / "B" / "c.nii.gz").read_bytes()[:-20])
    with pytest.raises(DataError, match="2 problems") as error:
        find_labels(cases_of(tmp_path / "B"), num_workers=0, listen=ignore_events)
    assert "'a.nii.gz' has 60 voxels whose label is not a whole number" in error.value.details[0]
    assert error.value.details[1].startswith("'b.nii.gz'")


def test_only_background_is_refused(tmp_path):
    write_pair(tmp_path, ["a", "b"], values=(0,))
    with pytest.raises(DataError, match="none of the 2 label maps has any foreground"):
        find_labels(cases_of(tmp_path / "B"), num_workers=0, listen=ignore_events)


def test_an_image_is_not_taken_for_a_label_map(tmp_path):
    values = np.arange(20 * 20 * 20, dtype=np.uint16).reshape(20, 20, 20)
    write_volume(tmp_path / "B" / "a.nii.gz", values)
    with pytest.raises(DataError, match="8000 distinct values, which look like images"):
        find_labels(cases_of(tmp_path / "B"), num_workers=0, listen=ignore_events)


@pytest.mark.parametrize(
    ("lowest", "highest", "is_ct"),
    [(-1024, 1500, True), (-1000, 300, True), (0, 1500, False), (-1024, 100, False), (-1e5, 1e5, False)],
)
def test_hounsfield_units_are_told_by_their_range(tmp_path, lowest, highest, is_ct):
    path = write_volume(tmp_path / "a.nii.gz", np.array([[[lowest, highest]]], np.float32))
    assert bool(look_like_hounsfield(path)) == is_ct


def test_an_image_that_cannot_be_read_looks_like_nothing(tmp_path):
    assert look_like_hounsfield(tmp_path / "nowhere.nii.gz") == ""
