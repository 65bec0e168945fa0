"""Sort the problems that reading a dataset finds by what to do about them."""

from __future__ import annotations

import re

from stu_pipeline.datasets.endings import SUPPORTED_ENDINGS
from stu_pipeline.doctor.finding import Finding

# The first pattern that fits decides. The texts are those of datasets/; a text that fits none is still shown.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("repeat", r"worker process|not enough memory"),
    ("relabel", r"does not name|not a whole number|labels outside|label ids?\b"),
    ("clean", r"NaN or infinite"),
    ("regrid", r"differs? (from|by)|do not share one grid"),
    (
        "convert",
        r"\b[45]D\b|RGB|complex|NIfTI-2|stores voxels as|gzip-compressed|shear|orthonormal|colour|several volumes"
        r"|expected one volume|has a spacing|no valid position|not an image file",
    ),
    (
        "complete",
        r"channels?\b.*(missing|unexpected|dataset\.json names|of \d+)|no label map|has no image|no channel number"
        r"|ends in|not found|is not there|tell apart|not a regular file|no training cases|case id|dead link",
    ),
    (
        "export",
        r"damaged|cut short|ends after|holds more|header|magic|is empty|bytes|cannot be read|bits per voxel|dimension"
        r"|has .* voxels, expected|voxel sizes|voxels start|the limit is|not a NIfTI|no permission",
    ),
)
_SUMMARY = re.compile(r"\Athe files of '[^']*' cannot be used: ")
_CASE = re.compile(r"\Acase '([^']+)' ")
_FILE = re.compile(r"'([^']+(?:" + "|".join(re.escape(ending) for ending in SUPPORTED_ENDINGS) + r"))'", re.IGNORECASE)


def sort_problem(text: str, case_id: str = "") -> Finding:
    """Turn one problem of a case (or of the file listing) into a finding."""
    text = _SUMMARY.sub("", text)
    if not case_id and (match := _CASE.match(text)):
        case_id = match[1]
    action = next((key for key, pattern in _PATTERNS if re.search(pattern, text)), "correct")
    files = tuple(dict.fromkeys(_FILE.findall(text)))
    return Finding(action=action, severity="problem", what=text, cases=(case_id,) if case_id else (), files=files)


def sort_warning(text: str, case_id: str = "") -> Finding:
    """Turn one remark of reading a case into a finding."""
    is_repair = "orthonormal" in text or "repaired" in text
    files = tuple(dict.fromkeys(_FILE.findall(text)))
    return Finding(
        action="headers" if is_repair else "know",
        severity="note",
        what=text,
        cases=(case_id,) if case_id else (),
        files=files,
    )
