"""Models that see one and the same array of a case: it is prepared once, and their logits are averaged on its grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.merge import merge_slabs
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_memory import WindowForecast, WindowMemory, forecast_window_bytes
from stu_pipeline.inference.window_settings import CertaintySettings, WindowNetwork, WindowSettings
from stu_pipeline.inference.window_statistics import WindowStatistics
from stu_pipeline.nnunet.model import EngineModel
from stu_pipeline.nnunet.prepared_case import PreparedCase, describe_preparation
from stu_pipeline.prediction.models.model_folder import ModelFolder
from stu_pipeline.prediction.models.networks import InferenceSettings, count_network_parameters, open_networks


def _ignore_tiles(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(slots=True, eq=False, kw_only=True)
class Watch:
    """Who is told what while a case is predicted, and what was found."""

    on_tiles: Callable[[int, int], None] = _ignore_tiles
    seed: int = 0
    """Draws the tiles that are audited when some are left early; another one for every case."""
    notes: list[str] = field(default_factory=list)
    statistics: list[WindowStatistics] = field(default_factory=list)

    @property
    def num_passes(self) -> int:
        """Forward passes of all windows."""
        return sum(item.passes_run for item in self.statistics)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Window:
    """The models of a group with one patch."""

    settings: WindowSettings
    networks: tuple[WindowNetwork, ...]
    weight: float
    memory: WindowMemory = field(default_factory=WindowMemory)


class Group:
    """Some models of an ensemble around one network grid.

    Args:
        folders: whose `describe_preparation` is the same; a cascade is alone.
        weights: one per folder.
        settings: of the ensemble.

    Raises:
        ModelError: a network cannot be built.
    """

    def __init__(self, folders: Sequence[ModelFolder], weights: Sequence[float], settings: InferenceSettings) -> None:
        self.model: EngineModel = folders[0].model
        self.weight = sum(weights)
        self.decision = Decision(num_outputs=self.model.num_outputs, region_values=self.model.region_values)
        self.windows: list[Window] = []
        for patch in dict.fromkeys(folder.model.patch_voxels for folder in folders):
            members = [item for item in zip(folders, weights, strict=True) if item[0].model.patch_voxels == patch]
            levels = _choose_levels([folder for folder, _ in members], settings.effort)
            networks = tuple(
                network
                for (folder, weight), level in zip(members, levels, strict=True)
                for network in open_networks(folder, settings, weight=weight, level=level)
            )
            window = WindowSettings(
                patch_voxels=patch,
                num_outputs=self.model.num_outputs,
                has_regions=self.model.region_values is not None,
                step=settings.step,
                device=settings.device,
                results_device=settings.device,
                tta=settings.tta,
                effort=settings.effort,
            )
            self.windows.append(Window(settings=window, networks=networks, weight=sum(weight for _, weight in members)))

    @property
    def has_levels(self) -> bool:
        """Whether some networks may be left out on sure tiles."""
        return any(len({network.level for network in window.networks}) > 1 for window in self.windows)

    def stream(self, prepared: PreparedCase, axis: int, watch: Watch) -> Iterator[Slab]:
        """Yield the averaged logits of a prepared case, slab by slab along a plan axis.

        Raises:
            NonFiniteError: a network computed NaN or infinite numbers.
            MemoryLimitError: one tile at a time is still too much.
        """
        image = torch.from_numpy(prepared.data)
        streams = []
        for window in self.windows:
            statistics = WindowStatistics()
            watch.statistics.append(statistics)
            certainty = CertaintySettings(seed=watch.seed)
            streams.append(
                slide(
                    window.networks,
                    image,
                    replace(window.settings, axis=axis, certainty=certainty),
                    on_progress=watch.on_tiles,
                    notes=watch.notes,
                    statistics=statistics,
                    memory=window.memory,
                )
            )
        if len(streams) == 1:
            return streams[0]
        return merge_slabs(streams, [window.weight for window in self.windows])

    def forecast(self, network_shape: Sequence[int], axis: int) -> WindowForecast:
        """Count the bytes of the windows while a case of this shape is streamed along a plan axis."""
        found = [
            forecast_window_bytes(
                replace(window.settings, axis=axis),
                network_shape,
                self.model.num_network_channels,
                window.networks,
                batch=window.memory.batch,
            )
            for window in self.windows
        ]
        # The tiles of every window are held until their planes are asked for, the passes come one after another.
        passing = max(item.pass_bytes for item in found)
        return WindowForecast(
            ring_bytes=sum(item.ring_bytes for item in found),
            group_bytes=sum(item.group_bytes - item.pass_bytes for item in found) + passing,
            pass_bytes=passing,
        )


def group_folders(folders: Sequence[ModelFolder]) -> list[list[int]]:
    """Collect the indices of folders that prepare a case in the same way, in order."""
    groups: dict[str, list[int]] = {}
    for index, folder in enumerate(folders):
        key = json.dumps(describe_preparation(folder.model), sort_keys=True, default=str)
        # A cascade sees the mask of its own previous stage.
        groups.setdefault(key if folder.previous is None else f"{index}", []).append(index)
    return list(groups.values())


def _choose_levels(folders: Sequence[ModelFolder], effort: str) -> list[int]:
    """Say at which level each model runs: with `elastic` effort by size, the smallest everywhere."""
    if effort != "elastic":
        return [0] * len(folders)
    sizes = [count_network_parameters(folder) for folder in folders]
    order = sorted(set(sizes))
    return [order.index(size) for size in sizes]
