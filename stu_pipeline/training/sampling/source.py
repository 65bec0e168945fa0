"""Make any sample of a training from its key and the preprocessed files. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.errors import DataError
from stu_pipeline.training.augmentation.draws import draw_affine, find_patch_center, find_plain_offset, find_source_box
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.sampling.crop import CropRule, choose_case, choose_corner, choose_is_foreground, choose_voxel
from stu_pipeline.training.sampling.places import HINT, PlaceReader
from stu_pipeline.training.sampling.reading import OpenCase, open_case, read_box
from stu_pipeline.training.sampling.sample import Purpose, Sample, SampleKey

Allocate = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]
"""Returns an array of a shape and a type, its content undefined: `numpy.empty`, or a place in shared memory."""


@dataclass(frozen=True, kw_only=True)
class SampleSource:
    """Everything that is needed to make any sample of one phase. It pickles.

    Raises:
        DataError: there is no case.
    """

    folder: Path
    """The preprocessed cases."""
    cases: tuple[str, ...]
    """Those of the phase. Their order matters: it is part of what makes a sample."""
    num_channels: int
    """Of the image, without the channels a cascade adds."""
    settings: AugmentationSettings
    rule: CropRule
    is_augmenting: bool = True
    """Whether training patches are rotated and scaled; validation patches never are."""
    previous_folder: Path | None = None
    """Predictions of the previous cascade stage."""
    _places: PlaceReader = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that there is something to sample."""
        if not self.cases:
            raise DataError("there is no case to sample from", where=self.folder, hint=HINT)
        object.__setattr__(self, "_places", PlaceReader(self.folder))

    @property
    def max_sample_bytes(self) -> int:
        """Most bytes the voxels of one sample take: those of the initial patch."""
        frame = self.settings.initial_patch if self.is_augmenting else self.settings.patch
        return math.prod(frame) * (4 * self.num_channels + 2 * self._num_label_maps)

    def name_case(self, key: SampleKey) -> str:
        """Return the case a sample is of, without reading anything."""
        return choose_case(key.open_generator(Purpose.CROP), self.cases)

    def make_sample(self, key: SampleKey, allocate: Allocate = np.empty) -> Sample:
        """Choose, read and crop the sample that a key names; equal keys give equal samples.

        Args:
            key: of the phase this source is for.
            allocate: where the voxels go.

        Raises:
            DataError: a file is missing or damaged, or the case does not fit the plan.
        """
        generator = key.open_generator(Purpose.CROP)
        case_id = choose_case(generator, self.cases)
        case = open_case(self.folder, case_id, num_channels=self.num_channels, previous_folder=self.previous_folder)
        is_transformed = self.is_augmenting and key.phase == "train"
        first = self._choose_first_voxel(generator, key, case, has_margin=is_transformed)
        affine = draw_affine(key, self.settings) if is_transformed else None
        lower, upper = (0,) * len(self.settings.patch), self.settings.patch
        center: tuple[float, ...] = ()
        if affine is not None:
            lower, upper = find_source_box(affine, self.settings)
            center = tuple(c - low for c, low in zip(find_patch_center(self.settings), lower, strict=True))
        sizes = tuple(up - low for low, up in zip(lower, upper, strict=True))
        data = allocate((self.num_channels, *sizes), np.float32)
        labels = allocate((self._num_label_maps, *sizes), np.int16)
        corner = [place + low for place, low in zip(first, _as_volume(lower, filler=0), strict=True)]
        frame = _as_volume(sizes, filler=1)
        # A slice is read as a volume of one slice: the same memory, one more axis.
        read_box(case, corner, data=data.reshape(-1, *frame), labels=labels.reshape(-1, *frame))
        return Sample(key=key, case_id=case_id, data=data, labels=labels, affine=affine, center=center)

    @property
    def _num_label_maps(self) -> int:
        return 1 if self.previous_folder is None else 2

    def _choose_first_voxel(
        self, generator: np.random.Generator, key: SampleKey, case: OpenCase, *, has_margin: bool
    ) -> list[int]:
        """Choose where the untransformed patch begins in the image, `(z, y, x)`."""
        is_foreground = choose_is_foreground(generator, key.slot, self.rule)
        voxel = None
        if is_foreground or self.rule.annotated_key is not None:
            try:
                places = self._places.read(case.case_id)
                voxel = choose_voxel(generator, places, self.rule, is_foreground=is_foreground)
            except KeyError as error:
                problem = f"case '{case.case_id}' was preprocessed without the ignore label"
                raise DataError(problem, where=self.folder, hint=HINT) from error
        settings = self.settings
        initial = settings.initial_patch if has_margin else settings.patch
        offset = find_plain_offset(settings) if has_margin else (0,) * len(settings.patch)
        corner = choose_corner(
            generator,
            case.shape,
            patch=_as_volume(settings.patch, filler=1),
            initial_patch=_as_volume(initial, filler=1),
            voxel=voxel,
        )
        return [place + extra for place, extra in zip(corner, _as_volume(offset, filler=0), strict=True)]


def _as_volume(sizes: tuple[int, ...], *, filler: int) -> tuple[int, ...]:
    """Add the first axis to what has two."""
    return (filler, *sizes) if len(sizes) == 2 else sizes
