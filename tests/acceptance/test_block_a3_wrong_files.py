"""A3: valid gzip of the wrong length, wrong names, no images: read exactly or refused, each for its own reason."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from stu_pipeline.datasets.reading import read_image
from stu_pipeline.errors import DataError
from tests.image_files import make_affine, make_header

ARRAY = np.random.default_rng(0).integers(-500, 1500, (12, 11, 10)).astype(np.int16)
PLAIN = (
    make_header(ARRAY.shape, np.int16, sform=make_affine(np.eye(3)), codes=(1, 0)).binaryblock
    + bytes(4)
    + ARRAY.tobytes(order="F")
)
PACKED = gzip.compress(PLAIN)
HALF = len(PLAIN) // 2
HTML = b"<!DOCTYPE html><html><body>404 not found</body></html>"

READ = {
    "one member": ("a.nii.gz", PACKED),
    "plain": ("a.nii", PLAIN),
    "upper case": ("a.NII.GZ", PACKED),
    "two members": ("a.nii.gz", gzip.compress(PLAIN[:HALF]) + gzip.compress(PLAIN[HALF:])),
    "blocks and an empty end (bgzip)": (
        "a.nii.gz",
        b"".join(gzip.compress(PLAIN[at : at + 700]) for at in range(0, len(PLAIN), 700)) + gzip.compress(b""),
    ),
    "zeros behind": ("a.nii.gz", PACKED + bytes(512)),
    "a header with a file name": ("a.nii.gz", PACKED[:3] + b"\x08" + PACKED[4:10] + b"scan.nii\0" + PACKED[10:]),
    "an extension before the voxels": (
        "a.nii.gz",
        gzip.compress(PLAIN[:108] + np.float32(368).tobytes() + PLAIN[112:352] + bytes(16) + PLAIN[352:]),
    ),
}
REFUSED = {
    "empty file": ("a.nii.gz", b"", "is empty"),
    "two bytes": ("a.nii.gz", b"\x1f\x8b", "no end after 2 bytes"),
    "html": ("a.nii.gz", HTML * 20, "not gzip-compressed"),
    "html named nii": ("a.nii", HTML * 20, "not a NIfTI file"),
    "packed html": ("a.nii.gz", gzip.compress(HTML * 20), "not a NIfTI file"),
    "plain named gz": ("a.nii.gz", PLAIN, "not gzip-compressed"),
    "gz named nii": ("a.nii", PACKED, "is gzip-compressed"),
    "one byte short": ("a.nii.gz", gzip.compress(PLAIN[:-1]), f"ends after {len(PLAIN) - 1} of {len(PLAIN)} bytes"),
    "one byte long": ("a.nii.gz", gzip.compress(PLAIN + b"x"), f"holds more than the {len(PLAIN)} bytes"),
    "the file twice": ("a.nii.gz", PACKED + PACKED, f"holds more than the {len(PLAIN)} bytes"),
    "header only": ("a.nii.gz", gzip.compress(PLAIN[:348]), "ends after 348"),
    "half a header": ("a.nii.gz", gzip.compress(PLAIN[:200]), "not a NIfTI file"),
    "junk behind": ("a.nii.gz", PACKED + b"junk", "bytes after its gzip stream"),
    "zeros and junk behind": ("a.nii.gz", PACKED + bytes(9) + b"junk", "bytes after its gzip stream"),
    "a cut second member": ("a.nii.gz", gzip.compress(PLAIN[:HALF]) + gzip.compress(PLAIN[HALF:])[:-3], "no end"),
    "a wrong checksum": ("a.nii.gz", PACKED[:-8] + bytes(4) + PACKED[-4:], "incorrect data check"),
    "a wrong length": ("a.nii.gz", PACKED[:-4] + bytes(4), "incorrect length check"),
    "plain, short": ("a.nii", PLAIN[:-1], f"{len(PLAIN) - 1} bytes, expected {len(PLAIN)}"),
    "plain, long": ("a.nii", PLAIN + b"x", f"{len(PLAIN) + 1} bytes, expected {len(PLAIN)}"),
    "a thousand empty members": ("a.nii.gz", gzip.compress(b"") * 1000 + PACKED, "bytes after its gzip stream"),
    "header and image apart": ("a.nii", PLAIN[:344] + b"ni1\0" + PLAIN[348:], "magic"),
    "another ending": ("a.gz", PACKED, "not an image file"),
    "a folder": ("a.nii.gz", None, "not a regular file"),
    "nrrd named nii": ("a.nii", b"NRRD0004\ntype: short\n\n" + PLAIN, "not a NIfTI file"),
    "nii named nrrd": ("a.nrrd", PLAIN, "no .nrrd header"),
    "nii named mha": ("a.mha", PLAIN, "no .mha header"),
}


@pytest.mark.parametrize("case", READ)
def test_unusual_but_whole_files_are_read_exactly(tmp_path, case):
    name, content = READ[case]
    (tmp_path / name).write_bytes(content)
    assert np.array_equal(read_image(tmp_path / name).array[0], ARRAY.T)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_what_it_says_is_refused_for_its_own_reason(tmp_path, case):
    name, content, reason = REFUSED[case]
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_image(tmp_path / name)
    assert reason in error.value.problem and f"'{name}'" in error.value.problem and error.value.where == tmp_path


def test_a_plain_file_beside_a_packed_one_is_not_mistaken_for_it(tmp_path):
    # nifti_clib opens a.nii when asked for a.nii.gz, so SimpleITK would return the zeros.
    (tmp_path / "a.nii.gz").write_bytes(PACKED)
    (tmp_path / "a.nii").write_bytes(PLAIN[:352] + bytes(len(PLAIN) - 352))
    assert np.array_equal(read_image(tmp_path / "a.nii.gz").array[0], ARRAY.T)
