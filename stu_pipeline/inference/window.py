"""The streaming sliding window: networks and an image in, finished planes of logits out, a slab at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch

from stu_pipeline.errors import MemoryLimitError
from stu_pipeline.inference.passes import PassRunner
from stu_pipeline.inference.ring import Ring, count_ring_bytes
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.inference.stages import plan_stages
from stu_pipeline.inference.tile_group import TileGroups
from stu_pipeline.inference.tiles import Corner, build_importance, build_tile_grid, cut_tiles
from stu_pipeline.inference.window_memory import (
    WindowMemory,
    choose_cpu_batch,
    choose_gpu_batch,
    count_group_tiles,
    is_room_for_ring,
)
from stu_pipeline.inference.window_settings import WindowNetwork, WindowSettings
from stu_pipeline.inference.window_statistics import WindowStatistics

_CPU = torch.device("cpu")
_GIB = 1 << 30


def slide(
    networks: Sequence[WindowNetwork],
    image: torch.Tensor,
    settings: WindowSettings,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    notes: list[str] | None = None,
    statistics: WindowStatistics | None = None,
    memory: WindowMemory | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> Iterator[Slab]:
    """Slide networks over an image and yield its logits, plane after plane along the walk axis.

    Logits are the importance-weighted mean over the tiles that cover a voxel, of the weighted mean over the networks,
    of the mean over their mirrored copies. Every tile is read and sent to the device once. What is held of the logits
    is as thick as a tile, see `forecast_window_bytes`. Nothing runs before the first slab is asked for.

    The scores of a slab are float32 logits on the device where results lie, a view that holds until the next slab is
    asked for: use or copy them before. They may be changed in place.

    Args:
        networks: at least one. Where the GPU is full, those that are modules may be left on the CPU.
        image: `(c, z, y, x)` float32 on the CPU, no axis empty.
        settings: how the window slides.
        on_progress: told the tiles done and their total after every group of them.
        notes: gets a line for each thing that did not go as planned: overflows, a full memory.
        statistics: counts are added to it while slabs are asked for.
        memory: what is known of the memory from earlier images; it learns from this one.
        check_stop: called before every pass; may raise.

    Raises:
        NonFiniteError: a network computed NaN or infinite numbers, also in float32.
        MemoryLimitError: not even one copy of one tile fits, with logits and other networks in RAM.
    """
    window = _Window(
        networks,
        image,
        settings,
        memory=memory if memory is not None else WindowMemory(),
        notes=notes if notes is not None else [],
        check_stop=check_stop,
    )
    corners = window.grid.list_corners()
    axis = settings.axis
    done = 0
    while done < len(corners):
        results, counts = window.predict(corners, done)
        if statistics is not None:
            statistics.add(counts)
        for logits, factor in results:
            corner = corners[done]
            yield from window.ring.release(corner[axis])
            window.ring.add(corner, logits.view(-1, *window.grid.extent), factor)
            done += 1
        del results, logits
        on_progress(done, len(corners))
    window.note_overflows(len(corners))
    yield from window.ring.release(window.grid.padded_shape[axis])


class _Window:
    """One image on its way; knows what to do without when memory is full."""

    def __init__(
        self,
        networks: Sequence[WindowNetwork],
        image: torch.Tensor,
        settings: WindowSettings,
        *,
        memory: WindowMemory,
        notes: list[str],
        check_stop: Callable[[], None],
    ) -> None:
        self.grid = build_tile_grid(image.shape[1:], settings.patch_voxels, settings.step, settings.axis)
        self._image = image
        self._settings = settings
        self._memory = memory
        self._notes = notes
        self._plan = plan_stages(networks, settings.tta, settings.effort)
        self._passes = PassRunner(networks, settings.device, check_stop=check_stop)
        self._groups = TileGroups(networks, settings, self._plan, self._passes)
        self.ring = self._build_ring()

    def predict(
        self, corners: Sequence[Corner], done: int
    ) -> tuple[list[tuple[torch.Tensor, float]], WindowStatistics]:
        """Predict the next tiles, as many as go together; the ring is not touched before they are finished."""
        while True:
            batch = self._choose_batch()
            group = corners[done : done + count_group_tiles(self._plan, batch)]
            self._passes.batch = min(batch, len(group) * self._plan.max_copies)
            self._passes.keeps_one_network = self._memory.networks_on_cpu
            with _ram_errors(self._settings):
                try:
                    return self._predict_group(group, done)
                except torch.OutOfMemoryError:
                    # Go on outside of this block: the traceback holds the tensors of the failed group.
                    pass
                self._step_down()

    def note_overflows(self, num_tiles: int) -> None:
        """Say which networks were run again in float32, and on how many tiles."""
        for name, count in self._groups.overflows.items():
            self._notes.append(
                f"{name}: 16-bit numbers overflowed on {count} of {num_tiles} tiles, computed again in float32"
            )

    def _predict_group(
        self, corners: Sequence[Corner], first: int
    ) -> tuple[list[tuple[torch.Tensor, float]], WindowStatistics]:
        device = self._settings.device
        is_measured = self._memory.batch is None and device.type == "cuda" and self._settings.max_tiles is None
        held = 0
        if is_measured:
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
        tiles = cut_tiles(self._image, self.grid, corners, pinned=device.type == "cuda")
        x = tiles.to(device, non_blocking=True)
        results, counts = self._groups.predict(x.view(*x.shape[:2], *self._settings.patch_voxels), first)
        if is_measured:
            needed = torch.cuda.max_memory_allocated(device) - held
            self._memory.batch = choose_gpu_batch(self._settings.patch_voxels, needed, device)
        return [(logits.to(self.ring.device), factor) for logits, factor in results], counts

    def _choose_batch(self) -> int:
        if self._memory.batch is not None:
            return min(self._memory.batch, self._settings.max_tiles or self._memory.batch)
        if self._settings.max_tiles is not None:
            return self._settings.max_tiles
        # The first pass on a GPU is a single copy: it shows what one needs.
        return 1 if self._settings.device.type == "cuda" else choose_cpu_batch(self._settings.patch_voxels)

    def _build_ring(self) -> Ring:
        settings, memory = self._settings, self._memory
        importance = build_importance(settings.patch_voxels).view(self.grid.extent)
        device = _CPU if memory.results_on_cpu else settings.results_device
        num_bytes = count_ring_bytes(self.grid, settings.num_outputs)
        if not is_room_for_ring(num_bytes, device):
            self._notes.append(f"logits of {num_bytes / _GIB:.1f} GiB are added up in RAM, the GPU has less to spare")
            device = _CPU
        with _ram_errors(settings):
            try:
                return Ring(self.grid, settings.num_outputs, importance, device)
            except torch.OutOfMemoryError:
                memory.results_on_cpu = True
            self._notes.append("the GPU was full: logits are added up in RAM")
            _empty_cache()
            return Ring(self.grid, settings.num_outputs, importance, _CPU)

    def _step_down(self) -> None:
        """Give up what costs least: copies per pass, then logits on the device, then networks on the device."""
        memory = self._memory
        _empty_cache()
        if self._passes.batch > 1:
            memory.batch = self._passes.batch // 2
            self._notes.append(f"memory was full: the batch is {memory.batch} from there on")
        elif self.ring.device.type != "cpu":
            memory.results_on_cpu = True
            self.ring.move_to(_CPU)
            self._notes.append("the GPU was full: logits are added up in RAM")
        elif not memory.networks_on_cpu and self._passes.can_send_away():
            memory.networks_on_cpu = True
            self._passes.send_away()
            self._notes.append("the GPU was full: networks wait in RAM while another one runs")
        else:
            raise _describe_limit(self._settings)
        _empty_cache()


@contextlib.contextmanager
def _ram_errors(settings: WindowSettings) -> Iterator[None]:
    """Turn what an allocation on the CPU raises into an error of ours."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise _describe_limit(settings) from error
        raise


def _describe_limit(settings: WindowSettings) -> MemoryLimitError:
    patch = "x".join(map(str, settings.patch_voxels))
    hint = "--device cpu, or a GPU with more memory" if settings.device.type != "cpu" else "a machine with more memory"
    return MemoryLimitError(
        f"not enough memory for {settings.num_outputs} outputs of one tile of {patch} voxels", hint=hint
    )


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
