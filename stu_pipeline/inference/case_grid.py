"""The way from the grid a network sees back to the grid of the image."""

from __future__ import annotations

from dataclasses import dataclass

from stu_pipeline.preparation.cropping import Box
from stu_pipeline.preparation.target_grid import Shape

LINEAR = 1
NEAREST = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseGrid:
    """Shapes of one case. All but the last field are in the plan's axes: `(z, y, x)` after its transposition."""

    network_shape: Shape
    """Voxels of the logits."""
    cropped_shape: Shape
    """Voxels of the cropped image, which the logits are resampled to."""
    full_shape: Shape
    """Voxels of the whole image; outside the box is background."""
    box: Box
    """Where the cropped image lies in the whole one."""
    transpose_backward: tuple[int, int, int]
    """Turns the plan's axes into the image's: `full.transpose(transpose_backward)`."""
    separate_axis: int | None = None
    """The axis that is resampled with `separate_order`, the others with `order`; None: all with `order`."""
    order: int = LINEAR
    """Of the spline, 0, 1 or 3; the rule for pruning holds for 1."""
    separate_order: int = NEAREST

    @property
    def image_shape(self) -> Shape:
        """Voxels of the whole image in its own axes."""
        z, y, x = (self.full_shape[axis] for axis in self.transpose_backward)
        return z, y, x

    def find_plan_axis(self, image_axis: int) -> int:
        """Return the plan's axis that is an axis of the image."""
        return self.transpose_backward[image_axis]

    def order_axes_as(self, other: CaseGrid) -> tuple[int, int, int]:
        """Return the order in which this plan's axes are those of another plan for the same image."""
        first, second, third = (self.transpose_backward[other.transpose_backward.index(axis)] for axis in range(3))
        return first, second, third


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How scores become labels."""

    num_outputs: int
    """Channels of the scores."""
    region_values: tuple[int, ...] | None = None
    """The value each region is painted with where its logit is above 0 (its probability above 0.5), in painting
    order; None: the channel with the highest score, the lower one on a tie."""
