"""Forward passes: copies of tiles in batches, in the type each network computes in, checked for finite numbers."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from stu_pipeline.inference.mirroring import MirroredAxes, mirror_tiles, turn_back
from stu_pipeline.inference.stages import NetworkPasses, Stage
from stu_pipeline.inference.tile_sums import TileSums
from stu_pipeline.inference.window_settings import WindowNetwork

Segment = tuple[MirroredAxes, list[int]]
"""The same copy of some tiles."""


class PassRunner:
    """Runs networks on tiles.

    Args:
        networks: of the window.
        device: where they run.
        check_stop: called before every forward pass; may raise.
    """

    def __init__(
        self, networks: Sequence[WindowNetwork], device: torch.device, *, check_stop: Callable[[], None]
    ) -> None:
        self._networks = networks
        self._device = device
        self._check_stop = check_stop
        self.batch = 1
        """Copies of tiles in one forward pass, at most."""
        self.keeps_one_network = False
        """Whether networks wait on the CPU while another one runs."""

    def run_stage(
        self, stage: Stage, x: torch.Tensor, tiles: Sequence[int], sums: TileSums, in_float32: Collection[int]
    ) -> set[int]:
        """Add what the networks of a stage say of some tiles to their sums.

        Args:
            stage: which networks see which copies.
            x: tiles `(t, c, *patch)` on the device.
            tiles: which of them, ascending, at least one.
            sums: of all tiles of `x`.
            in_float32: networks whose 16-bit type is not used this time.

        Returns:
            The networks that computed NaN or infinite numbers; if there are any, the sums are of no use.
        """
        checks = []
        for passes in stage.passes:
            self._bring(passes.network)
            finite = self._run_network(passes, x, tiles, sums, passes.network in in_float32)
            checks.append(torch.stack(finite).all())
        # One look at the device per stage, not per pass.
        answers = torch.stack(checks).tolist()
        return {passes.network for passes, is_finite in zip(stage.passes, answers, strict=True) if not is_finite}

    def can_send_away(self) -> bool:
        """Tell whether networks can wait on the CPU while another one runs."""
        return self._device.type != "cpu" and len(self._list_modules()) > 1

    def send_away(self, except_for: object = None) -> None:
        """Move networks to the CPU."""
        for module in self._list_modules():
            if module is not except_for:
                module.to("cpu")

    def _list_modules(self) -> list[nn.Module]:
        modules = [network.run for network in self._networks if isinstance(network.run, nn.Module)]
        return list(dict.fromkeys(modules))

    def _bring(self, index: int) -> None:
        """Have a network on the device, and the others away where only one is kept."""
        module = self._networks[index].run
        if not isinstance(module, nn.Module):
            return
        # Every tensor is asked: a move that ran out of memory leaves a part of the network behind.
        tensors = itertools.chain(module.parameters(), module.buffers())
        if all(tensor.device.type == self._device.type for tensor in tensors):
            return
        if self.keeps_one_network:
            self.send_away(except_for=module)
        module.to(self._device)

    def _run_network(
        self, passes: NetworkPasses, x: torch.Tensor, tiles: Sequence[int], sums: TileSums, in_float32: bool
    ) -> list[torch.Tensor]:
        network = self._networks[passes.network]
        swap = network.side_swap
        finite = []
        for segments in split_passes(passes.mirrorings, tiles, self.batch):
            self._check_stop()
            copies = [mirror_tiles(select_tiles(x, members), axes, swap) for axes, members in segments]
            with _autocast(self._device, None if in_float32 else network.autocast):
                outputs = network.run(copies[0] if len(copies) == 1 else torch.cat(copies))
            # NaN and infinity survive a sum; one number is cheaper to look at than a mask of all.
            finite.append(torch.isfinite(outputs.sum(dtype=torch.float32)))
            del copies
            start = 0
            for axes, members in segments:
                part = outputs[start : start + len(members)]
                sums.add(passes.slot, members, turn_back(part, axes, swap), passes.factor)
                start += len(members)
        return finite


def split_passes(mirrorings: Sequence[MirroredAxes], tiles: Sequence[int], limit: int) -> list[list[Segment]]:
    """Divide all copies of all tiles into batches of about the same size, `limit` at most."""
    items = [(mirrored, tile) for mirrored in mirrorings for tile in tiles]
    size = math.ceil(len(items) / math.ceil(len(items) / limit))
    return [
        [
            (mirrored, [tile for _, tile in group])
            for mirrored, group in itertools.groupby(items[start : start + size], key=lambda item: item[0])
        ]
        for start in range(0, len(items), size)
    ]


def select_tiles(x: torch.Tensor, tiles: Sequence[int]) -> torch.Tensor:
    """Return some tiles of `(t, c, *patch)`; a view where they are neighbours. `tiles` are ascending."""
    if len(tiles) == tiles[-1] - tiles[0] + 1:
        return x[tiles[0] : tiles[-1] + 1]
    return x[list(tiles)]


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
