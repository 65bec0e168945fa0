"""A few tiles at a time through all stages: which go on, which are left, and what the networks say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from stu_pipeline.errors import NonFiniteError
from stu_pipeline.inference.certainty import count_changed, is_audited, is_unsure, read_labels
from stu_pipeline.inference.passes import PassRunner
from stu_pipeline.inference.stages import Stage, StagePlan
from stu_pipeline.inference.tile_sums import TileSums
from stu_pipeline.inference.window_settings import WindowNetwork, WindowSettings
from stu_pipeline.inference.window_statistics import WindowStatistics


@dataclass(slots=True)
class _Attempt:
    """The way of one group; thrown away when a network has to run again."""

    sums: TileSums
    active: list[int]
    statistics: WindowStatistics
    audited: dict[int, torch.Tensor] = field(default_factory=dict)
    """The labels that sure tiles would have been left with."""


class TileGroups:
    """Predicts groups of tiles.

    Args:
        networks: of the window.
        settings: of the window.
        plan: of the stages.
        passes: runs the networks.
    """

    def __init__(
        self, networks: Sequence[WindowNetwork], settings: WindowSettings, plan: StagePlan, passes: PassRunner
    ) -> None:
        self._networks = networks
        self._settings = settings
        self._plan = plan
        self._passes = passes
        self.overflows: Counter[str] = Counter()
        """By name of a network: the tiles its 16-bit numbers overflowed on."""

    @torch.inference_mode()
    def predict(self, x: torch.Tensor, first: int) -> tuple[list[tuple[torch.Tensor, float]], WindowStatistics]:
        """Predict tiles `(t, c, *patch)`, of which the first has the number `first`.

        Returns:
            For each tile logits `(outputs, *patch)` and a factor to multiply them by; and the counts of the group.

        Raises:
            NonFiniteError: a network computed NaN or infinite numbers, also in float32.
        """
        in_float32: set[int] = set()
        while True:
            attempt, broken = self._attempt(x, first, in_float32)
            if not broken:
                break
            del attempt
            self._require_wider_type(broken, in_float32)
            in_float32 |= broken
        for index in in_float32:
            self.overflows[self._networks[index].name] += len(x)
        return [attempt.sums.mean(tile) for tile in range(len(x))], attempt.statistics

    def _attempt(self, x: torch.Tensor, first: int, in_float32: set[int]) -> tuple[_Attempt, set[int]]:
        """Run a group through the stages; the networks that are not finite end it."""
        shape = (len(x), self._settings.num_outputs, *x.shape[2:])
        statistics = WindowStatistics(tiles=len(x), passes_full=len(x) * self._plan.num_passes)
        attempt = _Attempt(TileSums(self._plan, shape, x.device), list(range(len(x))), statistics)
        for number, stage in enumerate(self._plan.stages):
            if number:
                self._leave_sure_tiles(attempt, first)
            statistics.tiles_by_stage[stage.name] = len(attempt.active)
            if attempt.active and (broken := self._run(stage, x, attempt, in_float32)):
                return attempt, broken
        self._audit(attempt)
        return attempt, set()

    def _run(self, stage: Stage, x: torch.Tensor, attempt: _Attempt, in_float32: set[int]) -> set[int]:
        broken = self._passes.run_stage(stage, x, attempt.active, attempt.sums, in_float32)
        attempt.sums.close(stage, attempt.active)
        attempt.statistics.passes_run += stage.num_passes * len(attempt.active)
        return broken

    def _leave_sure_tiles(self, attempt: _Attempt, first: int) -> None:
        rule, has_regions = self._settings.certainty, self._settings.has_regions
        remaining = []
        for tile in attempt.active:
            if tile not in attempt.audited:
                logits = attempt.sums.read_mean(tile)
                if not is_unsure(logits, rule, has_regions=has_regions):
                    if not is_audited(first + tile, rule):
                        attempt.statistics.tiles_skipped += 1
                        continue
                    attempt.audited[tile] = read_labels(logits, has_regions=has_regions)
            remaining.append(tile)
        attempt.active = remaining

    def _audit(self, attempt: _Attempt) -> None:
        """Compare the labels that audited tiles would have been left with with those of all passes."""
        has_regions = self._settings.has_regions
        for tile, before in attempt.audited.items():
            after = read_labels(attempt.sums.read_mean(tile), has_regions=has_regions)
            num_changed = count_changed(before, after, has_regions=has_regions)
            attempt.statistics.tiles_audited += 1
            attempt.statistics.tiles_changed += num_changed > 0
            attempt.statistics.changed_shares += num_changed / (before[0] if has_regions else before).numel()

    def _require_wider_type(self, broken: set[int], in_float32: set[int]) -> None:
        for index in sorted(broken):
            network = self._networks[index]
            if network.autocast in {None, torch.float32} or index in in_float32:
                raise NonFiniteError(
                    f"{network.name} computed numbers that are NaN or infinite",
                    hint="--precision fp32, or another checkpoint",
                )
