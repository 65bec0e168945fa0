"""One model or several as one: logits are averaged where grids agree, probabilities where they do not.

A case runs through as slabs: window, export and whatever else listens see a few planes at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import ModelError
from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.inference.mask_exporter import MaskExporter
from stu_pipeline.inference.merge import merge_slabs
from stu_pipeline.inference.probability import MaskPainter, to_probabilities
from stu_pipeline.inference.resampled_slabs import resample_slabs
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.nnunet.export_grid import resample_with_engine
from stu_pipeline.nnunet.prepared_case import PreparedCase, prepare_raw_case
from stu_pipeline.nnunet.raw_case import RawCase, read_raw_case
from stu_pipeline.prediction.combining.group import Group, Watch, group_folders
from stu_pipeline.prediction.models.model_folder import ModelFolder
from stu_pipeline.prediction.models.networks import InferenceSettings
from stu_pipeline.prediction.models.same_labels import require_same_labels

Mask = npt.NDArray[Any]
# Dense slabs (probabilities, ensembles over several grids) hold so many planes of every label.
DENSE_PLANES = 8


class SlabSink(Protocol):
    """Something that is shown every slab of a case, in order."""

    def add(self, slab: Slab) -> None:
        """Take a slab; its tensor may be overwritten afterwards."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedCase:
    """A case read, and prepared for every group that needs no previous stage."""

    case: Case
    raws: dict[str, RawCase]
    """By name of the reader."""
    prepared: tuple[PreparedCase | None, ...]
    """One per group; None for a cascade."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prediction:
    """The mask `(z, y, x)` of one case on its image's grid."""

    mask: Mask
    raw: RawCase
    prepared: PreparedCase
    """Of the first group, without its voxels."""
    watch: Watch


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sinks:
    """What else sees a case on its way."""

    logits: tuple[SlabSink, ...] = ()
    """Logits on the network grid of the first group."""
    probabilities: tuple[SlabSink, ...] = ()
    """Averaged probabilities on the cropped image's grid, in the axes of the first group's plan."""


class Ensemble:
    """Every model folder of one prediction, its networks loaded.

    Args:
        folders: opened model folders with the same labels and channels.
        settings: device, type, step, mirroring.
        weights: one per folder; None weighs them equally.

    Raises:
        ModelError: the models do not share labels or channels, or one cannot be built.
    """

    def __init__(
        self, folders: Sequence[ModelFolder], settings: InferenceSettings, weights: Sequence[float] | None = None
    ) -> None:
        require_same_labels(folders)
        self.folders = tuple(folders)
        self.settings = settings
        shares = [1.0] * len(folders) if weights is None else list(weights)
        shares = [share / sum(shares) for share in shares]
        self.groups: list[Group] = []
        self.previous: list[Ensemble | None] = []
        for members in group_folders(folders):
            chosen = [folders[index] for index in members if shares[index] > 0]
            if not chosen:
                continue
            self.groups.append(Group(chosen, [shares[index] for index in members if shares[index] > 0], settings))
            before = chosen[0].previous
            self.previous.append(None if before is None else Ensemble([before], settings))
        self.model = self.groups[0].model

    @property
    def notices(self) -> tuple[str, ...]:
        """What does not do what its option promises."""
        if self.settings.effort != "elastic" or any(group.has_levels for group in self.groups):
            return ()
        return (
            "elastic effort saves nothing: it needs models of different sizes with the same preprocessing and patch",
        )

    def load(self, case: Case) -> LoadedCase:
        """Read and prepare a case; safe to call from another thread than `predict`.

        Raises:
            DataError: the case cannot be used.
            MemoryLimitError: it does not fit the memory.
        """
        raws: dict[str, RawCase] = {}
        for group in self.groups:
            name = group.model.reader_name
            if name not in raws:
                raws[name] = read_raw_case(group.model, case)
        keeps_voxels = any(previous is not None for previous in self.previous)
        prepared: list[PreparedCase | None] = []
        for index, group in enumerate(self.groups):
            if self.previous[index] is not None:
                prepared.append(None)
                continue
            # The last one to need the voxels may work in their memory.
            is_last = not keeps_voxels and all(
                later.model.reader_name != group.model.reader_name for later in self.groups[index + 1 :]
            )
            raw = raws[group.model.reader_name]
            prepared.append(prepare_raw_case(group.model, raw, may_use_memory=is_last))
        if not keeps_voxels:
            raws = {name: raw.without_voxels() for name, raw in raws.items()}
        return LoadedCase(case=case, raws=raws, prepared=tuple(prepared))

    def predict(
        self,
        loaded: LoadedCase,
        watch: Watch,
        open_sinks: Callable[[PreparedCase, RawCase], Sinks] = lambda prepared, raw: Sinks(),
    ) -> Prediction:
        """Predict a loaded case.

        Args:
            loaded: from `load`.
            watch: is told the progress, and collects notes.
            open_sinks: given the case as the first group sees it, says what else is shown the slabs.

        Raises:
            DataError: a cascade's second stage cannot prepare it.
            NonFiniteError: NaN or infinite numbers were computed.
            MemoryLimitError: it does not fit the memory.
        """
        prepared = [self._prepare(index, loaded, watch) for index in range(len(self.groups))]
        _require_one_image(loaded.case, prepared)
        raw = loaded.raws[self.model.reader_name]
        sinks = open_sinks(prepared[0], raw)
        axes = self.choose_axes([item.grid for item in prepared])
        streams = [
            _tee(group.stream(item, axis, watch), sinks.logits if index == 0 else ())
            for index, (group, item, axis) in enumerate(zip(self.groups, prepared, axes, strict=True))
        ]
        if len(self.groups) == 1 and not prepared[0].needs_engine_export:
            mask = self._export(streams[0], prepared[0].grid, axes[0], sinks)
        else:
            mask = self._merge(streams, prepared, axes, sinks)
        return Prediction(mask=mask, raw=raw, prepared=prepared[0].without_voxels(), watch=watch)

    def _prepare(self, index: int, loaded: LoadedCase, watch: Watch) -> PreparedCase:
        found = loaded.prepared[index]
        previous = self.previous[index]
        if found is not None or previous is None:
            if found is None:
                raise ModelError(f"case '{loaded.case.id}' was not prepared")
            return found
        group = self.groups[index]
        raw = loaded.raws[group.model.reader_name]
        before = LoadedCase(case=loaded.case, raws=loaded.raws, prepared=(prepare_raw_case(previous.model, raw),))
        return prepare_raw_case(group.model, raw, previous.predict(before, watch).mask)

    def choose_axes(self, grids: Sequence[CaseGrid]) -> list[int]:
        """Choose the walk axis of every group: one axis of the image, the one that takes the least memory."""

        def sum_bytes(image_axis: int) -> int:
            return sum(
                group.forecast(grid.network_shape, grid.find_plan_axis(image_axis)).ring_bytes
                for group, grid in zip(self.groups, grids, strict=True)
            )

        chosen = min(range(3), key=lambda axis: (sum_bytes(axis), axis))
        return [grid.find_plan_axis(chosen) for grid in grids]

    def _export(self, slabs: Iterator[Slab], grid: CaseGrid, axis: int, sinks: Sinks) -> Mask:
        decision = self.groups[0].decision
        exporter = MaskExporter(grid, decision, axis=axis, device=self.settings.device)
        passing = _tee(slabs, (exporter,))
        if not sinks.probabilities:
            for _ in passing:
                pass
            return exporter.finish()
        for part in resample_slabs(passing, grid, axis=axis, max_planes=DENSE_PLANES):
            _show(to_probabilities(part, decision), sinks.probabilities)
        return exporter.finish()

    def _merge(
        self, streams: Sequence[Iterator[Slab]], prepared: Sequence[PreparedCase], axes: Sequence[int], sinks: Sinks
    ) -> Mask:
        """Average probabilities on the cropped image's grid, in the axes of the first group's plan."""
        first = prepared[0].grid
        dense = [
            self._turn(group, stream, item, axis, first)
            for group, stream, item, axis in zip(self.groups, streams, prepared, axes, strict=True)
        ]
        painter = MaskPainter(first, self.groups[0].decision, axis=axes[0])
        for part in merge_slabs(dense, [group.weight for group in self.groups]):
            _show(part, (painter, *sinks.probabilities))
        return painter.finish()

    def _turn(
        self, group: Group, slabs: Iterator[Slab], item: PreparedCase, axis: int, first: CaseGrid
    ) -> Iterator[Slab]:
        """Yield probabilities of one group on the cropped image's grid, in the axes of another grid."""
        order = item.grid.order_axes_as(first)
        if item.needs_engine_export:
            parts = _resample_whole(group, slabs, item, axis)
        else:
            parts = resample_slabs(slabs, item.grid, axis=axis, max_planes=DENSE_PLANES)
        for part in parts:
            scores = to_probabilities(part, group.decision).scores.permute(0, *(1 + axis for axis in order))
            yield Slab(start=part.start, axis=order.index(axis), scores=scores)


def _tee(slabs: Iterator[Slab], sinks: Sequence[SlabSink]) -> Iterator[Slab]:
    for slab in slabs:
        _show(slab, sinks)
        yield slab


def _show(slab: Slab, sinks: Sequence[SlabSink]) -> None:
    for sink in sinks:
        sink.add(slab)


def _resample_whole(group: Group, slabs: Iterator[Slab], item: PreparedCase, axis: int) -> Iterator[Slab]:
    """Collect a whole case for a plan whose resampling only nnU-Net knows."""
    logits = torch.cat([slab.scores.cpu().clone() for slab in slabs], dim=1 + axis)
    resampled = resample_with_engine(
        group.model.plans, group.model.configuration, logits, grid=item.grid, properties=item.properties
    )
    yield Slab(start=0, axis=axis, scores=torch.from_numpy(np.ascontiguousarray(resampled)))


def _require_one_image(case: Case, prepared: Sequence[PreparedCase]) -> None:
    shapes = {item.grid.image_shape for item in prepared}
    if len(shapes) > 1:
        raise ModelError(f"models see case '{case.id}' on different grids: {', '.join(map(str, sorted(shapes)))}")
