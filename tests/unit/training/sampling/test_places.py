"""Where labels lie, read from properties without running code."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from stu_pipeline.errors import DataError
from stu_pipeline.training.sampling import places
from stu_pipeline.training.sampling.places import PlaceReader, read_places


def write(folder, content, name="case"):
    (folder / f"{name}.pkl").write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_labels_regions_and_empty_lists_are_read(tmp_path, protocol):
    voxels = np.array([[0, 1, 2, 3]], dtype=np.int16)
    known = {1: voxels, np.int64(2): [], (np.int64(1), 2): voxels, 3: np.empty((0, 4), np.int64)}
    other = {"spacing": [np.float32(1)], "shape": np.arange(3), "box": ((0, 1),), "name": b"x"}
    write(tmp_path, pickle.dumps({"class_locations": known, **other}, protocol=protocol))
    _, found = read_places(tmp_path, "case")
    assert list(found) == [1, 2, (1, 2), 3] and all(type(key) in (int, tuple) for key in found)
    assert [len(value) for value in found.values()] == [1, 0, 1, 0]
    assert found[1].tolist() == [[0, 1, 2, 3]] and found[2].shape == (0, 4)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_the_file_is_refused_and_not_run(tmp_path):
    write(tmp_path, {"class_locations": {}, "bad": Payload(str(tmp_path / "canary"))})
    with pytest.raises(DataError, match=r"'case.pkl' of case 'case' is damaged: it names '(posix|nt).mkdir'"):
        read_places(tmp_path, "case")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04junk", pickle.dumps({"class_locations": {1: np.zeros((3, 4))}})[:-9], [1], {"other": 1}]
)
def test_damage_is_named_with_case_and_file(tmp_path, content):
    write(tmp_path, content)
    with pytest.raises(DataError, match="of case 'case' is damaged") as caught:
        read_places(tmp_path, "case")
    assert caught.value.where == tmp_path and "stu plan" in caught.value.hint


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="case 'case' has no file 'case"):
        read_places(tmp_path, "case")


def test_bytes_in_another_encoding_are_refused(tmp_path):
    write(tmp_path, b"c_codecs\nencode\n(Vtext\nVrot13\ntR.")
    with pytest.raises(DataError, match="stored as 'rot13'"):
        read_places(tmp_path, "case")


def test_the_last_cases_are_kept_within_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_CACHE_BYTES", 2500)
    for name in "abc":
        write(tmp_path, {"class_locations": {1: np.zeros((128, 4), np.int16)}}, name)
    reader = PlaceReader(tmp_path)
    kept = reader.read("a")
    assert reader.read("a") is kept
    reader.read("b"), reader.read("c")
    assert reader.read("a") is not kept
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.read("a") is not reader.read("a")
