"""What identifies the content of a checkpoint, without torch and without reading its tensors.

Reads: the list of contents of `checkpoint_*.pth` (a zip archive of `torch.save`).
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from pathlib import Path

from stu_pipeline.errors import ModelError


def identify_checkpoint(path: Path) -> str:
    """Return a SHA-256 over the archive's list of names, sizes and checksums.

    It changes with the content, and costs milliseconds for a file of any size.

    Raises:
        ModelError: missing, cut or not a checkpoint.
    """
    digest = hashlib.sha256()
    with open_archive(path) as archive:
        for entry in sorted(archive.infolist(), key=lambda item: item.filename):
            # The first folder is the file's own name; the rest names the content.
            name = entry.filename.partition("/")[2]
            digest.update(f"{name}\0{entry.file_size}\0{entry.CRC}\n".encode())
    return digest.hexdigest()


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open a checkpoint as the archive that it is.

    Raises:
        ModelError: missing, cut or not a checkpoint.
    """
    if not path.is_file():
        raise ModelError(f"checkpoint '{path.name}' not found", where=path.parent)
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise explain_damage(path, str(error)) from error


def explain_damage(path: Path, reason: str) -> ModelError:
    """Return the error for a checkpoint that is damaged or none."""
    return ModelError(
        f"'{path.name}' is damaged or not a checkpoint: {reason}",
        where=path.parent,
        hint="copy the file again, or use another checkpoint",
    )
