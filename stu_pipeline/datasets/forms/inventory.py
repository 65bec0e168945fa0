"""What a dataset in a foreign form holds: its cases, channels and labels, before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stu_pipeline.datasets.endings import PICTURE_ENDINGS, TIFF_ENDINGS, split_ending

ForeignForm = Literal["msd", "nnunet_v1", "folder_pair"]
FORM_NAMES: Mapping[str, str] = {
    "nnunet_v2": "nnU-Net v2",
    "msd": "Medical Segmentation Decathlon",
    "nnunet_v1": "nnU-Net v1",
    "folder_pair": "two folders",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCase:
    """The files of one case where they lie, as absolute paths."""

    id: str
    images: tuple[Path, ...]
    """One per channel; or a single 4D file that holds them all."""
    label: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """A foreign dataset, looked through. Voxels were not read."""

    form: ForeignForm
    sources: tuple[Path, ...]
    """What was given: one folder, or the folders of images and labels."""
    cases: tuple[SourceCase, ...]
    channel_names: tuple[str, ...]
    file_ending: str
    labels: dict[str, int] | None
    """None: to be found in the label maps."""
    must_split: bool = False
    """Whether each image is one 4D file with all channels."""
    number: int | None = None
    """The id the dataset brings along."""
    name: str = ""
    """The name it brings along, in letters that a dataset name may have."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keys for `dataset.json`: description, licence and the like."""
    notes: tuple[str, ...] = ()


def choose_ending(images: Iterable[Path]) -> str:
    """Choose the ending of a dataset: the one most images have.

    Raises:
        ValueError: pictures are mixed with volumes; nnU-Net reads a dataset with one reader.
    """
    counts = Counter(split_ending(path.name)[1].lower() for path in images)
    flat = {*PICTURE_ENDINGS, *TIFF_ENDINGS}
    if len(counts) > 1 and any(ending in flat for ending in counts):
        raise ValueError(f"the images end in {', '.join(sorted(counts))}, expected one ending")
    return counts.most_common(1)[0][0]
