"""Signatures of raw files: equal while the content is, cheap where the format allows it."""

from __future__ import annotations

import gzip
import os
import random

import pytest

from stu_pipeline.datasets import signature
from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.signature import sign_case, sign_file
from stu_pipeline.errors import DataError


def write_large_gzip(path, *, seed=0):
    path.write_bytes(gzip.compress(random.Random(seed).randbytes(9 * 2**20), compresslevel=1, mtime=0))
    assert path.stat().st_size > signature.WHOLE_FILE_BYTES
    return path


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_equal_files_have_equal_signatures(tmp_path):
    for name in ("a.nii", "b.nii"):
        (tmp_path / name).write_bytes(b"voxels")
    assert sign_file(tmp_path / "a.nii") == sign_file(tmp_path / "b.nii")


@pytest.mark.parametrize("position", [0, 50_000, 99_999])
def test_any_changed_byte_of_a_small_file_changes_the_signature(tmp_path, position):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(os.urandom(99_000), mtime=0).ljust(100_000, b"x"))
    before = sign_file(path)
    flip(path, position)
    assert sign_file(path) != before


def test_any_changed_byte_of_a_large_file_without_a_checksum_changes_the_signature(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(random.Random(0).randbytes(9 * 2**20))
    before = sign_file(path)
    flip(path, 5 * 2**20)
    assert sign_file(path) != before


def test_other_content_of_a_large_gzip_file_shows_in_its_trailer(tmp_path):
    one, two = write_large_gzip(tmp_path / "a.nii.gz", seed=1), write_large_gzip(tmp_path / "b.nii.gz", seed=2)
    assert one.stat().st_size == two.stat().st_size
    # Equal starts: only the last eight bytes, CRC32 and length, tell the two apart.
    two.write_bytes(one.read_bytes()[:-8] + two.read_bytes()[-8:])
    assert sign_file(one) != sign_file(two)


def test_a_large_gzip_file_is_not_read_whole(tmp_path):
    path = write_large_gzip(tmp_path / "a.nii.gz")
    before = sign_file(path)
    flip(path, 4 * 2**20)
    assert sign_file(path) == before


def test_a_case_is_signed_over_all_its_files_and_their_names(tmp_path):
    files = [tmp_path / name for name in ("a_0000.nii", "a_0001.nii", "a.nii")]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    case = Case(id="a", image_files=tuple(files[:2]), label_file=files[2])
    before = sign_case(case)
    assert sign_case(Case(id="a", image_files=tuple(reversed(files[:2])), label_file=files[2])) != before
    assert sign_case(Case(id="a", image_files=tuple(files[:2]))) != before
    files[2].write_bytes(b"other")
    assert sign_case(case) != before


def test_the_folder_of_a_case_does_not_matter(tmp_path):
    signatures = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a_0000.nii").write_bytes(b"voxels")
        signatures.append(sign_case(Case(id="a", image_files=(tmp_path / name / "a_0000.nii",))))
    assert signatures[0] == signatures[1]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"'gone\.nii' cannot be read: No such file"):
        sign_file(tmp_path / "gone.nii")
