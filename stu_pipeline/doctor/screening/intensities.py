"""Judge intensities: constant images, levels and ranges unlike the other cases'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.datasets.inspection import CaseReport
from stu_pipeline.doctor.finding import Finding
from stu_pipeline.doctor.screening.observation import ChannelObservation
from stu_pipeline.doctor.screening.robust import measure_deviation

Table = npt.NDArray[np.float64]
Texts = dict[int, list[str]]
"""What is odd about a case, by its place in the list."""

# Deviations that count, in robust standard deviations. Real cases of one protocol stay below 3.
_MAX_DEVIATION = 6.0
# Spreads below these shares of the usual range (levels) or of a factor (ranges) are too small to matter.
_LEVEL_FLOOR = 0.05
_LOG_RANGE_FLOOR = 0.15
# When more cases than this stand out, they are a second group (another scanner), not mistakes.
_MAX_SHARE = 0.1


def judge_intensities(cases: Sequence[CaseReport], dataset_json: DatasetJson) -> list[Finding]:
    """Compare every channel of every case with the same channel of the others."""
    findings = []
    for channel, name in dataset_json.channel_names.items():
        seen = [_Seen(case.case_id, case.observation.channels[channel]) for case in cases]
        title = f"channel {channel} '{name}'"
        findings += [
            Finding(
                action="intensities",
                severity="warning",
                what=f"{title} is constant: every voxel is {item.channel.lowest:g}",
                cases=(item.case_id,),
            )
            for item in seen
            if item.channel.is_constant
        ]
        varied = [item for item in seen if not item.channel.is_constant]
        if varied:
            findings += _compare_channel(varied, title, is_ct=name.lower() == "ct")
    return findings


@dataclass(frozen=True, slots=True)
class _Seen:
    case_id: str
    channel: ChannelObservation


def _compare_channel(seen: Sequence[_Seen], name: str, *, is_ct: bool) -> list[Finding]:
    percentiles = np.array([item.channel.percentiles for item in seen])
    foreground = np.array([np.nan if item.channel.foreground is None else item.channel.foreground for item in seen])
    ranges = np.maximum(percentiles[:, -1] - percentiles[:, 0], np.finfo(np.float32).tiny)
    scale = _find_scale_oddities(percentiles, ranges)
    if is_ct:
        # Hounsfield units have a fixed zero, so the level itself is compared; elsewhere its place in the range.
        floor = _LEVEL_FLOOR * float(np.median(ranges))
        level = _find_level_oddities(percentiles[:, 0], floor, "the darkest voxels are at {:.4g} HU, usually {:.4g}")
        text = "the foreground is at {:.4g} HU, usually {:.4g}"
        level = _merge(level, _find_level_oddities(foreground, floor, text))
    else:
        places = (foreground - percentiles[:, 0]) / ranges
        level = _find_level_oddities(places, _LEVEL_FLOOR, "the foreground is at {:.0%} of the range, usually {:.0%}")
    texts = _merge(scale, level)
    if len(texts) > max(1, _MAX_SHARE * len(seen)):
        return [_tell_group(seen, name, texts, is_ct=is_ct)]
    return [
        Finding(
            action="intensities",
            # Each case but CT is normalised by its own mean and spread, so a factor alone does no harm.
            severity="warning" if is_ct or index in level else "note",
            what=f"{name}: {'; '.join(texts[index])}",
            cases=(seen[index].case_id,),
        )
        for index in sorted(texts)
    ]


def _find_scale_oddities(percentiles: Table, ranges: Table) -> Texts:
    usual = float(np.median(ranges))
    odd = np.flatnonzero(np.abs(measure_deviation(np.log(ranges), _LOG_RANGE_FLOOR)) > _MAX_DEVIATION)
    return {
        int(index): [
            f"its range is {_say_factor(ranges[index] / usual)} the usual one "
            f"({percentiles[index, 0]:.4g} to {percentiles[index, -1]:.4g})"
        ]
        for index in odd
    }


def _find_level_oddities(values: Table, floor: float, text: str) -> Texts:
    """Find levels unlike the others'; NaN is a case without that level."""
    known = np.flatnonzero(np.isfinite(values))
    odd = known[np.abs(measure_deviation(values[known], floor)) > _MAX_DEVIATION]
    usual = float(np.median(values[known])) if len(known) else 0.0
    return {int(index): [text.format(values[index], usual)] for index in odd}


def _merge(first: Texts, second: Texts) -> Texts:
    return {index: [*first.get(index, []), *second.get(index, [])] for index in {*first, *second}}


def _tell_group(seen: Sequence[_Seen], name: str, texts: Texts, *, is_ct: bool) -> Finding:
    places = sorted(texts)
    what = (
        f"{name}: {len(places)} of {len(seen)} cases have other intensities than the rest (a second scanner or unit?), "
        f"for example '{seen[places[0]].case_id}': {texts[places[0]][0]}"
    )
    cases = tuple(seen[index].case_id for index in places)
    return Finding(action="intensities", severity="warning" if is_ct else "note", what=what, cases=cases)


def _say_factor(factor: float) -> str:
    return f"{factor:.3g} times" if factor >= 1 else f"1/{1 / factor:.3g} of"
