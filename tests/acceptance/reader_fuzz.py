"""Feed mutated files to the reader: `python -W error -m tests.acceptance.reader_fuzz FORMAT COUNT`.

Every case must end in a DataError or in a volume within the limits. Prints one JSON object; exit code 1 and the
number of the case when anything else happens. The case's number is its seed.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
import json
import os
import resource
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

import numpy as np

from stu_pipeline.datasets.reading import read_header, read_image, read_label_map
from stu_pipeline.datasets.volume import MAX_SPACING_MM, MAX_VOXELS, MIN_SPACING_MM, Volume
from stu_pipeline.errors import DataError
from tests.image_files import make_affine, make_header
from tests.synthetic import write_volume

HEADROOM_BYTES = 1 << 30
SLOW_S = 2.0
_ARRAY = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
_EXTREMES = {
    "<i2": (0, 1, -1, 9, 32767, -32768, 8192),
    "<f4": (0.0, -1.0, np.nan, np.inf, -np.inf, 1e30, 1e-30, 3e38, 1e9, 352.0, 1e-45),
}
_WORDS = (
    b"0", b"-1", b"1", b"2", b"nan", b"inf", b"-inf", b"1e400", b"1e-400", b"99999999999999999999", b"2147483648", b"",
    b"none", b"(", b")", b"(nan,0,0)", b"raw", b"gzip", b"double", b"vector", b"True", b"LOCAL", b"MET_DOUBLE", b"\xff",
    b"big", b"9" * 5000,
)  # fmt: skip


def mutate_nifti(base: bytes, generator: np.random.Generator) -> bytes:
    """Change 1 to 4 places of the 348 header bytes: any byte, a bit, or a field set to an extreme value."""
    data = bytearray(base)
    for _ in range(generator.integers(1, 5)):
        how = generator.integers(3)
        place = int(generator.integers(0, 348))
        if how == 0:
            data[place] = generator.integers(0, 256)
        elif how == 1:
            data[place] ^= 1 << int(generator.integers(0, 8))
        else:
            kind, start, count = (("<i2", 40, 8), ("<i2", 252, 2), ("<f4", 76, 11), ("<f4", 256, 18))[
                generator.integers(4)
            ]
            value = _EXTREMES[kind][generator.integers(len(_EXTREMES[kind]))]
            place = start + int(generator.integers(count)) * np.dtype(kind).itemsize
            data[place : place + np.dtype(kind).itemsize] = np.array(value, dtype=kind).tobytes()
    return bytes(data)


def mutate_text(base: bytes, generator: np.random.Generator, size: int) -> bytes:
    """Change 1 to 4 places of a text header of `size` bytes: a byte, a word, a line twice or not at all."""
    head, rest = base[:size], base[size:]
    for _ in range(generator.integers(1, 5)):
        how = generator.integers(4)
        lines = head.split(b"\n")
        row = int(generator.integers(len(lines)))
        if how == 0 and head:
            place = int(generator.integers(len(head)))
            head = head[:place] + bytes([generator.integers(0, 256)]) + head[place + 1 :]
            continue
        words = lines[row].split(b" ")
        if how == 1:
            words[generator.integers(len(words))] = _WORDS[generator.integers(len(_WORDS))]
            lines[row] = b" ".join(words)
        elif how == 2:
            lines.insert(row, lines[int(generator.integers(len(lines)))])
        else:
            del lines[row]
        head = b"\n".join(lines)
    return head + rest


def mutate_bytes(base: bytes, generator: np.random.Generator, size: int) -> bytes:
    """Change 1 to 4 bytes among the first `size`, at times cut the file."""
    data = bytearray(base)
    for _ in range(generator.integers(1, 5)):
        data[generator.integers(0, min(size, len(data)))] = generator.integers(0, 256)
    return bytes(data[: generator.integers(1, len(data))] if generator.random() < 0.1 else data)


def make_mutant(kind: str, bases: dict[str, bytes], seed: int) -> tuple[str, bytes]:
    """Return file ending and content of one case."""
    generator = np.random.default_rng([sum(kind.encode()), seed])
    if kind == "nifti":
        mutant = mutate_nifti(bases[".nii"], generator)
        return (".nii.gz", gzip.compress(mutant, 1)) if seed % 4 == 0 else (".nii", mutant)
    base = bases[kind if seed % 2 else f"{kind} packed"]
    if kind in ("nrrd", "mha"):
        mark = b"\n\n" if kind == "nrrd" else b"LOCAL\n"
        return f".{kind}", mutate_text(base, generator, base.index(mark) + len(mark))
    return f".{kind}", mutate_bytes(base, generator, 400)


def make_bases(folder: Path) -> dict[str, bytes]:
    """Make the small valid files that are mutated."""
    affine = make_affine(np.diag((-1.0, 1.0, 1.0)), (0.5, 0.6, 2.0), (3, 4, 5))
    header = make_header((3, 4, 5), np.int16, sform=affine, qform=affine, codes=(1, 1), spacing=(0.5, 0.6, 2.0))
    bases = {".nii": header.binaryblock + bytes(4) + _ARRAY.tobytes()}
    voxels = _ARRAY.tobytes()
    nrrd = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 3 4 5\n"
        "space directions: (0.5,0,0) (0,0.6,0) (0,0,2)\nkinds: domain domain domain\nendian: little\n"
        "encoding: {}\nspace origin: (1,2,3)\n\n"
    )
    bases["nrrd"] = nrrd.format("raw").encode() + voxels
    bases["nrrd packed"] = nrrd.format("gzip").encode() + gzip.compress(voxels)
    mha = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = {}\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 0.5 0.6 2\nDimSize = 3 4 5\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    bases["mha"] = mha.format("False").encode() + voxels
    bases["mha packed"] = mha.format("True").encode() + zlib.compress(voxels)
    import tifffile

    bases["tif"] = write_volume(folder / "base.tif", _ARRAY).read_bytes()
    tifffile.imwrite(folder / "packed.tif", _ARRAY, compression="zlib", photometric="minisblack")
    bases["tif packed"] = (folder / "packed.tif").read_bytes()
    bases["png packed"] = write_volume(folder / "base.png", np.arange(120, dtype=np.uint8).reshape(10, 12)).read_bytes()
    import imageio.v3

    imageio.v3.imwrite(folder / "colour.png", np.arange(360, dtype=np.uint8).reshape(10, 12, 3))
    bases["png"] = (folder / "colour.png").read_bytes()
    return bases


def run_case(path: Path, seed: int) -> str:
    """Read one mutant; return how it ended."""
    read = (read_image, read_image, read_label_map, read_header)[seed // 5 % 4]
    try:
        found = read(path)
    except DataError as error:
        if path.name not in error.problem or "\n" in error.problem or not error.problem[:400] == error.problem:
            raise AssertionError(f"a poor message: {error.problem!r}") from error
        return "refused"
    grid = found.grid if isinstance(found, Volume) else found
    spacing = grid.spacing_mm[3 - grid.num_dimensions :]
    if grid.num_voxels > MAX_VOXELS or not all(MIN_SPACING_MM <= value <= MAX_SPACING_MM for value in spacing):
        raise AssertionError(f"a grid beyond the limits: {grid}")
    if not np.isfinite([*grid.origin, *grid.direction, *grid.spacing_mm]).all():
        raise AssertionError(f"a position that is not finite: {grid}")
    if isinstance(found, Volume) and not np.isfinite(found.array).all():
        raise AssertionError("voxels that are not finite")
    return "read"


def main(kind: str, count: int) -> int:
    outcomes: collections.Counter[str] = collections.Counter()
    slowest, longest = 0, 0.0
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        bases = make_bases(Path(place))
        warm_up(Path(place), bases)
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        limit_memory()
        for seed in range(count):
            ending, content = make_mutant(kind, bases, seed)
            path = Path(place) / f"case{ending}"
            path.write_bytes(content)
            start = time.perf_counter()
            try:
                outcomes[run_case(path, seed)] += 1
            except BaseException:
                traceback.print_exc()
                print(f"{kind} case {seed} ended in neither an image nor a DataError", file=sys.stderr)
                return 1
            elapsed = time.perf_counter() - start
            slowest, longest = (seed, elapsed) if elapsed > longest else (slowest, longest)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - idle
    print(json.dumps({**outcomes, "slowest": slowest, "longest_s": longest, "peak_bytes": peak}))
    return 0


def warm_up(folder: Path, bases: dict[str, bytes]) -> None:
    """Import everything the readers import, before the memory is limited."""
    for ending, name in ((".nii", ".nii"), (".nrrd", "nrrd packed"), (".mha", "mha packed"), (".tif", "tif packed"),
                         (".png", "png packed")):  # fmt: skip
        path = folder / f"warm{ending}"
        path.write_bytes(bases[name])
        read_image(path)


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + HEADROOM_BYTES,) * 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
