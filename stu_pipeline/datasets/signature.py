"""Signatures of raw files: whether a case is still what it was when something was made from it.

Reads: image and label files, never their voxels.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import DataError

# Files up to this size are hashed whole: reading them costs milliseconds.
WHOLE_FILE_BYTES = 8 * 2**20
SAMPLE_BYTES = 64 * 2**10
_BLOCK_BYTES = 2**20
_GZIP_MAGIC = b"\x1f\x8b"


def sign_case(case: Case) -> str:
    """Return a SHA-256 over the names and signatures of all files of a case, as hex.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    for file in (*case.image_files, case.label_file):
        if file is not None:
            digest.update(f"{file.name}:{sign_file(file)}\n".encode())
    return digest.hexdigest()


def sign_file(path: Path) -> str:
    """Return `<bytes>:<SHA-256>` of a file, where a large gzip file is not read whole.

    A gzip file ends with the CRC32 and the length of its content, so beyond 8 MiB its size and its first
    and last 64 KiB stand for all of it. Every other file is hashed from start to end.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            is_gzip = stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            stream.seek(0)
            if is_gzip and size > WHOLE_FILE_BYTES:
                return f"{size}:ends:{_hash_ends(stream, size)}"
            return f"{size}:{_hash_whole(stream)}"
    except OSError as error:
        raise DataError(f"'{path.name}' cannot be read: {error.strerror}", where=path.parent) from error


def _hash_ends(stream: BinaryIO, size: int) -> str:
    digest = hashlib.sha256(stream.read(SAMPLE_BYTES))
    stream.seek(size - SAMPLE_BYTES)
    digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _hash_whole(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
