"""The image file endings that can be read, and how a file name splits into stem and ending."""

from __future__ import annotations

# Longest first, so that '.nii.gz' wins over '.gz' and '.tiff' over '.tif'.
SUPPORTED_ENDINGS = (".nii.gz", ".nrrd", ".tiff", ".nii", ".mha", ".tif", ".png", ".bmp")
# nnU-Net reads colour pictures of these kinds as several channels from one file.
PICTURE_ENDINGS = (".png", ".bmp", ".tif")
TIFF_ENDINGS = (".tif", ".tiff")
NIFTI_ENDINGS = (".nii.gz", ".nii")


def split_ending(name: str) -> tuple[str, str]:
    """Split a file name into stem and supported ending; the ending is '' when it is not one of ours.

    Case is ignored for the test and kept in the result.

    >>> split_ending("liver_001_0000.nii.gz")
    ('liver_001_0000', '.nii.gz')
    >>> split_ending("notes.txt")
    ('notes.txt', '')
    """
    for ending in SUPPORTED_ENDINGS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)], name[-len(ending) :]
    return name, ""
