"""A4: headers and streams that ask for more than they should are refused early, in little memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.datasets.reading import read_image
from tests.image_files import make_affine, make_header

REPOSITORY = Path(__file__).parents[2]
MAX_BYTES = 512 << 20
MAX_S = 5.0
GZIP_START = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
# Reads one file in a process of its own: seconds, growth of the peak memory, and the message.
_READ = """
import json, resource, sys, time
from pathlib import Path
from stu_pipeline.datasets.reading import read_image
from stu_pipeline.errors import DataError
import imagecodecs, PIL.Image, imageio.v3, tifffile
imagecodecs.gzip_decode
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
idle, start = peak(), time.perf_counter()
try:
    read_image(Path(sys.argv[1]))
    message = None
except DataError as error:
    message = error.problem
print(json.dumps([time.perf_counter() - start, peak() - idle, message]))
"""


def header(shape=(64, 64, 64), dtype=np.uint8, **fields):
    made = make_header((4, 4, 4), dtype, sform=make_affine(np.eye(3)), codes=(1, 0))
    made["dim"][1:4] = shape
    for name, value in fields.items():
        made[name] = value
    return made.binaryblock + bytes(4)


def pack(*parts):
    return gzip.compress(b"".join(parts), 9)


def pack_zeros(head, num_bytes, wbits=31):
    """Compress `head` and `num_bytes` (whole MiB) of zeros; one MiB is packed once and repeated."""
    block = bytes(1 << 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    is_gzip = wbits == 31
    count, check = num_bytes >> 20, zlib.crc32 if is_gzip else zlib.adler32
    total = check(head)
    for _ in range(count):
        total = check(block, total)
    stream = first + again * count + packer.flush()
    if is_gzip:
        length = (len(head) + num_bytes) & 0xFFFFFFFF
        return GZIP_START + stream + total.to_bytes(4, "little") + length.to_bytes(4, "little")
    return b"\x78\x9c" + stream + total.to_bytes(4, "big")


def nrrd(sizes):
    return f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: {sizes}\nencoding: gzip\n\n".encode()


def mha(sizes):
    return (
        f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_UCHAR\nCompressedData = True\n"
        "ElementDataFile = LOCAL\n"
    ).encode()


def png(width, height):
    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    pixels = pack_zeros(b"", 1 << 20, wbits=15)
    ends = chunk(b"IHDR", size + b"\x08\x00\x00\x00\x00"), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(ends)


GIB = 1 << 30
BOMBS = {
    "64 bytes that promise 8192^3": ("a.nii.gz", lambda: pack(header((8192,) * 3))[:64], "cut short|limit"),
    "a whole header that promises 8192^3": ("a.nii.gz", lambda: pack(header((8192,) * 3)), "limit is 2147483648"),
    "a header that promises 1290^3 float64": (
        "a.nii.gz", lambda: pack(header((1290,) * 3, np.float64)), "limit is 2147483648|cannot hold",
    ),
    "a header that promises 1000^3": ("a.nii.gz", lambda: pack(header((1000,) * 3)), "cannot hold"),
    "1 GiB of zeros behind a small header": (
        "a.nii.gz", lambda: pack_zeros(header(), GIB), "holds more than the 262496 bytes",
    ),
    "1 GiB of zeros as promised": (
        "a.nii.gz", lambda: pack_zeros(header((1024,) * 3), GIB), "decompression bomb or an empty image",
    ),
    "1 GiB of zeros as promised, in float64": (
        "a.nii.gz", lambda: pack_zeros(header((512,) * 3, np.float64), GIB), "decompression bomb or an empty image",
    ),
    "voxels at byte 1e9": ("a.nii.gz", lambda: pack(header(vox_offset=1e9), bytes(64**3)), "cannot hold"),
    "a plain file that promises 1000^3": ("a.nii", lambda: header((1000,) * 3) + bytes(999), "bytes, expected"),
    "1 GiB of zeros in a small nrrd": (
        "a.nrrd", lambda: nrrd("64 64 64") + pack_zeros(b"", GIB), "holds more than the 262144 bytes",
    ),
    "a nrrd of 1 GiB of zeros": ("a.nrrd", lambda: nrrd("1024 1024 1024") + pack_zeros(b"", GIB), "bomb"),
    "1 GiB of zeros in a small mha": (
        "a.mha", lambda: mha("64 64 64") + pack_zeros(b"", GIB, wbits=15), "holds more than the 262144 bytes",
    ),
    "a mha of 1 GiB of zeros": ("a.mha", lambda: mha("1024 1024 1024") + pack_zeros(b"", GIB, wbits=15), "bomb"),
    "a png of 40000 x 40000": ("a.png", lambda: png(40_000, 40_000), "cannot hold|bomb"),
    "a png of 100000 x 100000": ("a.png", lambda: png(100_000, 100_000), "limit|pixels|cannot hold|bomb"),
}  # fmt: skip

FAST = (
    "a whole header that promises 8192^3", "1 GiB of zeros behind a small header", "1 GiB of zeros as promised",
    "1 GiB of zeros in a small nrrd", "a mha of 1 GiB of zeros", "a png of 40000 x 40000",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in BOMBS]
)
def test_a_bomb_is_refused_early_and_in_little_memory(tmp_path, name):
    file_name, make, reason = BOMBS[name]
    require_refused(tmp_path / file_name, make(), reason)


def test_the_bombs_are_sound_files_but_for_their_size(tmp_path):
    for wbits in (31, 15):
        assert zlib.decompress(pack_zeros(b"head", 2 << 20, wbits), wbits) == b"head" + bytes(2 << 20)
    (tmp_path / "a.nii.gz").write_bytes(pack_zeros(header((128, 128, 64)), 1 << 20))
    assert not read_image(tmp_path / "a.nii.gz").array.any()


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_that_promises_too_much_is_refused(tmp_path, compression):
    import tifffile

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), photometric="minisblack", compression=compression)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = [file.pages[0].tags[name] for name in ("ImageWidth", "ImageLength")]
    for tag in tags:
        data[tag.valueoffset : tag.valueoffset + 2] = (30_000).to_bytes(2, "little")
    require_refused(path, bytes(data), "cannot hold|cannot be read|bomb")


def require_refused(path, content, reasons):
    path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    elapsed_s, growth, message = json.loads(done.stdout)
    assert message is not None, "it was read"
    assert any(reason in message for reason in reasons.split("|")), message
    assert elapsed_s < MAX_S and growth < MAX_BYTES
