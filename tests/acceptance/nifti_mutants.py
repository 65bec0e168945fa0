"""Tiny NIfTI files, sound or with up to three faults where the format has its joints. The seed decides everything."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.image_files import list_orientations, make_affine, make_header

_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "u8", "i8")
_TYPE_CODES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 255, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1)
_NUMBERS = (0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 1e-45, 1e30, -3e38, 1e-3, 1.0)
_SIZES = (0, 1, -1, 7, 9, 17, 255, 32767, -32768)
_SPACINGS = (0.0, -2.0, np.nan, np.inf, 0.009, 0.011, 0.3, 20.0, 49.0, 51.0, 1e30)
# Where the fields of a NIfTI-1 header start.
_DIM, _INTENT, _TYPE, _BITS, _PIXDIM, _OFFSET, _SLOPE, _UNITS, _FORMS, _QUATERN, _SROW, _NAME, _MAGIC = (
    40, 56, 70, 72, 76, 108, 112, 123, 252, 256, 280, 328, 344,
)  # fmt: skip


@dataclass
class Mutant:
    """A file in the making: the header's bytes in their order, what follows them, and how it is packed."""

    header: bytearray
    order: str
    body: bytearray
    dtype: np.dtype
    generator: np.random.Generator
    faults: list[str] = field(default_factory=list)
    repack: Callable[[bytes], bytes] = bytes
    packs: bool = True
    length: int | None = None
    """Where the file is cut before it is packed."""

    def put(self, kind: str, place: int, value: object) -> None:
        struct.pack_into(f"{self.order}{kind}", self.header, place, value)

    def get(self, kind: str, place: int) -> float:
        return struct.unpack_from(f"{self.order}{kind}", self.header, place)[0]

    def choose(self, values):
        return values[int(self.generator.integers(len(values)))]

    def choose_place(self, start: int, count: int, size: int) -> int:
        return start + size * int(self.generator.integers(count))


def make_mutant(seed: int) -> tuple[str, bytes, tuple[str, ...]]:
    """Return ending, content, and the names of the faults; every fourth file has none."""
    mutant = _make_sound(np.random.default_rng([7, seed]))
    names = list(FAULTS)
    for _ in range(0 if seed % 4 == 0 else mutant.choose((1, 1, 2, 3))):
        name = mutant.choose(names)
        FAULTS[name](mutant)
        mutant.faults.append(name)
    content = bytes(mutant.header + mutant.body)[: mutant.length]
    if not mutant.packs:
        return ".nii", content, tuple(mutant.faults)
    return ".nii.gz", mutant.repack(_pack(mutant, content)), tuple(mutant.faults)


def _make_sound(generator: np.random.Generator) -> Mutant:
    """A valid file: any byte order, type, turn, form, scaling, extension and packing."""
    shape = tuple(int(size) for size in generator.integers(8, 17, 3))
    dtype = np.dtype(_TYPES[generator.integers(len(_TYPES))])
    spacing = generator.uniform(1.0, 4.0, 3).astype(np.float32)
    orientations = list_orientations()
    affine = make_affine(orientations[generator.integers(len(orientations))], spacing, generator.uniform(-300, 300, 3))
    # A qform cannot say a lone reflection but by qfac, which nibabel sets.
    codes = ((1, 1), (1, 0), (0, 1), (2, 4), (0, 0))[generator.integers(5)]
    header = make_header(shape, dtype, sform=affine, qform=affine, codes=codes, spacing=spacing)
    if generator.random() < 0.3:
        header["scl_slope"], header["scl_inter"] = generator.uniform(0.5, 3), generator.uniform(-100, 100)
    extension = b""
    if generator.random() < 0.3:
        extension = bytes((1, 0, 0, 0)) + struct.pack("<ii", 32, 6) + b"a comment".ljust(24, b"\0")
        header["vox_offset"] = 348 + len(extension)
    swapped = generator.random() < 0.3
    order = ">" if swapped else "<"
    block = header.as_byteswapped(order).binaryblock
    voxels = generator.integers(0, 100, shape).astype(dtype).astype(dtype.newbyteorder(order))
    body = bytearray((extension or bytes(4)) + voxels.tobytes(order="F"))
    mutant = Mutant(bytearray(block), order, body, voxels.dtype, generator)
    mutant.packs = generator.random() < 0.7
    return mutant


def _pack(mutant: Mutant, content: bytes) -> bytes:
    """Pack at any level, at times in two members, or with a name in the header."""
    how = mutant.generator.random()
    level = int(mutant.generator.integers(0, 10))
    if how < 0.15:
        middle = len(content) // 2
        return gzip.compress(content[:middle], level, mtime=0) + gzip.compress(content[middle:], level, mtime=0)
    packed = gzip.compress(content, level, mtime=0)
    if how < 0.3:
        return packed[:3] + b"\x08" + packed[4:10] + b"scan.nii\0" + packed[10:]
    return packed


# -- faults of the header ------------------------------------------------------------------------


def _set_size(mutant: Mutant) -> None:
    mutant.put("h", mutant.choose_place(_DIM, 8, 2), mutant.choose(_SIZES))


def _add_dimension(mutant: Mutant) -> None:
    mutant.put("h", _DIM, 4)
    mutant.put("h", _DIM + 8, mutant.choose((0, 1, 2)))


def _swap_sizes(mutant: Mutant) -> None:
    first, last = mutant.get("h", _DIM + 2), mutant.get("h", _DIM + 6)
    mutant.put("h", _DIM + 2, last)
    mutant.put("h", _DIM + 6, first)


def _set_spacing(mutant: Mutant) -> None:
    mutant.put("f", mutant.choose_place(_PIXDIM, 4, 4), mutant.choose(_SPACINGS))


def _set_type(mutant: Mutant) -> None:
    mutant.put("h", _TYPE, mutant.choose(_TYPE_CODES))


def _set_bits(mutant: Mutant) -> None:
    mutant.put("h", _BITS, mutant.choose((0, 1, 8, 16, 32, 64, 128, -8)))


def _set_scaling(mutant: Mutant) -> None:
    mutant.put("f", mutant.choose_place(_SLOPE, 2, 4), mutant.choose(_NUMBERS))


def _set_codes(mutant: Mutant) -> None:
    mutant.put("h", mutant.choose_place(_FORMS, 2, 2), mutant.choose((0, 1, 2, 3, 4, 5, -1, 32767)))


def _set_sform(mutant: Mutant) -> None:
    mutant.put("f", mutant.choose_place(_SROW, 12, 4), mutant.choose(_NUMBERS))


def _lean_sform(mutant: Mutant) -> None:
    place = mutant.choose_place(_SROW, 12, 4)
    mutant.put("f", place, mutant.get("f", place) + mutant.choose((1e-5, 1e-3, 0.1, 1.0)))


def _set_qform(mutant: Mutant) -> None:
    mutant.put("f", mutant.choose_place(_QUATERN, 6, 4), mutant.choose(_NUMBERS))


def _set_offset(mutant: Mutant) -> None:
    mutant.put("f", _OFFSET, mutant.choose((0.0, 347.0, 348.0, 351.0, 352.5, 353.0, 368.0, 1e6, 3e9, -352.0, np.nan)))


def _set_intent(mutant: Mutant) -> None:
    mutant.put("h", _INTENT + 12, mutant.choose((0, 2, 1002, 1005, 1007, 2003, -1)))
    mutant.put("f", mutant.choose_place(_INTENT, 3, 4), mutant.choose(_NUMBERS))
    mutant.header[_NAME : _NAME + 16] = mutant.generator.bytes(16)


def _set_units(mutant: Mutant) -> None:
    mutant.header[_UNITS] = int(mutant.generator.integers(0, 256))


def _set_start(mutant: Mutant) -> None:
    mutant.put("i", 0, mutant.choose((0, 347, 348, 540, 1543569408, -348)))


def _set_magic(mutant: Mutant) -> None:
    mutant.header[_MAGIC : _MAGIC + 4] = mutant.choose((b"ni1\0", b"n+2\0", b"n+1 ", b"\0\0\0\0", b"N+1\0"))


def _swap_header(mutant: Mutant) -> None:
    """The size says one byte order, everything else keeps the other."""
    mutant.header[:4] = mutant.header[3::-1]


def _swap_field(mutant: Mutant) -> None:
    place = mutant.choose((_DIM, _DIM + 2, _TYPE, _BITS, _FORMS, _FORMS + 2))
    mutant.header[place : place + 2] = mutant.header[place : place + 2][::-1]


def _set_byte(mutant: Mutant) -> None:
    mutant.header[int(mutant.generator.integers(348))] = int(mutant.generator.integers(256))


# -- faults of what follows ----------------------------------------------------------------------


def _set_extension(mutant: Mutant) -> None:
    mutant.body[:4] = mutant.choose((b"\1\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1"))


def _cut_body(mutant: Mutant) -> None:
    mutant.length = 348 + int(mutant.generator.integers(len(mutant.body)))


def _add_bytes(mutant: Mutant) -> None:
    mutant.body += mutant.choose((b"\0", b"\0" * 4096, b"junk" * 7))


def _cut_header(mutant: Mutant) -> None:
    mutant.length = int(mutant.generator.integers(0, 353))


def _set_voxels(mutant: Mutant) -> None:
    """Set one to four voxels to what a float holds beside numbers, or to the ends of an integer type."""
    size = mutant.dtype.itemsize
    for _ in range(int(mutant.generator.integers(1, 5))):
        if len(mutant.body) < 4 + size:
            return
        place = mutant.choose_place(4, (len(mutant.body) - 4) // size, size)
        if mutant.dtype.kind == "f":
            largest = float(np.finfo(mutant.dtype).max)
            value = mutant.choose((np.nan, np.inf, -np.inf, largest, -largest, 1e30, 1e-40))
        else:
            value = mutant.choose((np.iinfo(mutant.dtype).max, np.iinfo(mutant.dtype).min))
        mutant.body[place : place + size] = np.array(value, mutant.dtype).tobytes()


def _flatten_voxels(mutant: Mutant) -> None:
    mutant.body[4:] = bytes(max(0, len(mutant.body) - 4))


# -- faults of the packing -----------------------------------------------------------------------


def _flip_packed(mutant: Mutant) -> None:
    place, bit = mutant.generator.random(), 1 << int(mutant.generator.integers(8))

    def flip(packed: bytes) -> bytes:
        data = bytearray(packed)
        data[int(place * len(data))] ^= bit
        return bytes(data)

    mutant.packs, mutant.repack = True, flip


def _cut_packed(mutant: Mutant) -> None:
    share = mutant.generator.random()
    mutant.packs, mutant.repack = True, lambda packed: packed[: int(share * len(packed))]


def _set_packed_flags(mutant: Mutant) -> None:
    flags = int(mutant.generator.integers(256))
    mutant.packs, mutant.repack = True, lambda packed: packed[:3] + bytes((flags,)) + packed[4:]


def _add_to_packed(mutant: Mutant) -> None:
    more = mutant.choose(
        (b"\0" * 512, b"junk", gzip.compress(b"", mtime=0), gzip.compress(b"more", mtime=0), b"\x1f\x8b")
    )
    mutant.packs, mutant.repack = True, lambda packed: packed + more


def _damage_trailer(mutant: Mutant) -> None:
    place = -1 - int(mutant.generator.integers(8))

    def damage(packed: bytes) -> bytes:
        data = bytearray(packed)
        data[place] ^= 0x55
        return bytes(data)

    mutant.packs, mutant.repack = True, damage


def _pack_otherwise(mutant: Mutant) -> None:
    pack = mutant.choose((zlib.compress, lambda packed: gzip.compress(packed, mtime=0), gzip.decompress))
    mutant.packs, mutant.repack = True, pack


FAULTS: dict[str, Callable[[Mutant], None]] = {
    function.__name__.lstrip("_"): function
    for function in (
        _set_size, _add_dimension, _swap_sizes, _set_spacing, _set_type, _set_bits, _set_scaling, _set_codes,
        _set_sform, _lean_sform, _set_qform, _set_offset, _set_intent, _set_units, _set_start, _set_magic,
        _swap_header, _swap_field, _set_byte, _set_extension, _cut_body, _add_bytes, _cut_header, _set_voxels,
        _flatten_voxels, _flip_packed, _cut_packed, _set_packed_flags, _add_to_packed, _damage_trailer,
        _pack_otherwise,
    )
}  # fmt: skip
