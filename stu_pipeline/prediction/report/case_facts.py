"""Everything the report says about one predicted case from its arrays: volumes and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stu_pipeline.datasets.dataset_fields import Label
from stu_pipeline.datasets.volume import Grid
from stu_pipeline.prediction.report.training_data import NUM_AXES, TrainingData
from stu_pipeline.prediction.report.volumes import (
    Mask,
    count_voxels,
    find_touched_faces,
    list_foreground,
    measure_volumes,
)
from stu_pipeline.prediction.report.warnings import (
    Image,
    warn_of_cut_labels,
    warn_of_empty_mask,
    warn_of_extent,
    warn_of_intensities,
    warn_of_spacing,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFacts:
    """Volumes by label in millilitres (none for a flat image), and warnings."""

    volumes_ml: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What of a model the facts about a case rest on."""

    labels: Mapping[str, Label]
    """Names and values, with the values of the masks that are given: consecutive ones, or those of the files."""
    channel_names: Sequence[str]
    training: TrainingData = field(default_factory=TrainingData)


def describe_case(
    mask: Mask,
    image: Image,
    grid: Grid,
    model: ModelFacts,
    *,
    image_step: int = 1,
    is_reoriented: bool = False,
    cropped_shape: Sequence[int] | None = None,
) -> CaseFacts:
    """Measure a predicted case.

    Args:
        mask: `(z, y, x)` on the image's grid, with the values that `model.labels` names.
        image: `(c, z, y, x)`, as read, before any normalisation.
        grid: of the image's file.
        model: labels, channels and what is usual.
        image_step: `image` holds only every so many voxels of the image along each axis.
        is_reoriented: whether the arrays' axes are not the file's; then spacing and sides are not compared.
        cropped_shape: voxels of what is not empty, in the image's axes; None takes the whole image.
    """
    highest = max((value for values in list_foreground(model.labels).values() for value in values), default=0)
    counts = count_voxels(mask, max(highest, int(mask.max(initial=0))) + 1)
    is_flat = grid.num_dimensions < NUM_AXES
    voxel_ml = None if is_flat else float(grid.spacing_mm[0] * grid.spacing_mm[1] * grid.spacing_mm[2]) / 1000
    has_sides = not is_flat and not is_reoriented
    warnings = [
        *warn_of_empty_mask(counts),
        *warn_of_cut_labels(find_touched_faces(counts, model.labels), grid.direction if has_sides else None),
        *warn_of_intensities(
            image, mask[::image_step, ::image_step, ::image_step], model.training, model.channel_names
        ),
    ]
    if has_sides:
        warnings += warn_of_spacing(grid.spacing_mm, model.training)
        warnings += warn_of_extent(cropped_shape or mask.shape, grid.spacing_mm, model.training)
    return CaseFacts(volumes_ml=measure_volumes(counts, model.labels, voxel_ml), warnings=tuple(warnings))
