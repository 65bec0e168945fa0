"""Say the result of a comparison in one sentence."""

from __future__ import annotations

from stu_pipeline.evaluation.comparison.config import METRICS, Difference

SIGNIFICANCE = 0.05
_SMALL_SHARE = 0.01
# Bounds of the rank-biserial correlation, read as other correlations are (Cohen).
_EFFECTS = ((0.1, "negligible"), (0.3, "small"), (0.5, "medium"), (float("inf"), "large"))
_UNITS = {"HD95_mm": " mm", "ASSD_mm": " mm", "volume_error_ml": " ml"}
_NAMES = {
    "HD95_mm": "HD95",
    "ASSD_mm": "ASSD",
    "volume_error_ml": "volume error",
    "volume_error_relative": "volume error",
}


def write_sentence(first: str, second: str, overall: Difference, *, metric: str, num_pairs: int) -> str:
    """Write who is better, by how much, and how sure that is; or that no difference was shown.

    Args:
        first: name of the first run.
        second: name of the second run.
        overall: second minus first.
        metric: what was compared.
        num_pairs: how many pairs were tested together; with several the corrected p-value is the one to read.
    """
    p_value = overall.p_corrected
    if overall.difference is None or p_value is None or overall.rank_biserial is None:
        return f"{first} and {second} cannot be compared: no case has a {show_name(metric)} in both"
    is_second_better = overall.rank_biserial > 0
    better, worse = (second, first) if is_second_better else (first, second)
    wins = overall.wins if is_second_better else overall.losses
    share = f"{better} scores better in {wins} of {overall.num_cases} cases"
    if overall.ties:
        share += f", equal in {overall.ties}"
    p_text = f"{show_p(p_value)}{' (corrected)' if num_pairs > 1 else ''}"
    if p_value >= SIGNIFICANCE:
        gap = _show_gap(overall, metric, sign=1.0, signed=True)
        return f"no difference was shown between {first} and {second}: {gap}, {p_text}; {share}"
    sign = 1.0 if is_second_better == METRICS[metric] else -1.0
    effect = f"{name_effect(overall.rank_biserial)} effect"
    if overall.difference * sign <= 0:  # many small gains and few large losses, or the reverse
        gap = _show_gap(overall, metric, sign=1.0, signed=True)
        return f"{better} is usually better than {worse}, but not on average: {gap}, {p_text}, {effect}; {share}"
    gap = _show_gap(overall, metric, sign=sign, signed=False)
    return f"{better} is better than {worse} by {gap}, {p_text}, {effect}; {share}"


def name_effect(rank_biserial: float) -> str:
    """Name the size of an effect.

    >>> name_effect(-0.42)
    'medium'
    """
    return next(name for bound, name in _EFFECTS if abs(rank_biserial) < bound)


def show_p(p_value: float) -> str:
    """Write a p-value as people do.

    >>> show_p(0.00002), show_p(0.0312), show_p(0.4)
    ('p < 0.001', 'p = 0.031', 'p = 0.40')
    """
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def show_name(metric: str) -> str:
    """Name a metric as in a sentence: `HD95_mm` is HD95."""
    return _NAMES.get(metric, metric)


def show_amount(value: float, metric: str, *, signed: bool = False, digits: int | None = None) -> str:
    """Write a score or a difference; `digits` defaults to four for shares and two for millimetres and counts."""
    if digits is None:
        digits = 4 if _is_share(metric) else 2
    return f"{value:{'+' if signed else ''}.{digits}f}"


def _is_share(metric: str) -> bool:
    return METRICS[metric] or metric == "volume_error_relative"


def _show_gap(overall: Difference, metric: str, *, sign: float, signed: bool) -> str:
    gap = sign * (overall.difference or 0.0)
    # A sentence needs no more digits than it takes to tell the numbers apart.
    digits = None if not _is_share(metric) or abs(gap) < _SMALL_SHARE else 3
    unit = f"{_UNITS.get(metric, '')} {show_name(metric)}"
    text = f"{show_amount(gap, metric, signed=signed, digits=digits)}{unit}"
    if overall.ci_low is None or overall.ci_high is None:
        return text
    low, high = sorted((sign * overall.ci_low, sign * overall.ci_high))
    ends = [show_amount(end, metric, digits=digits) for end in (low, high)]
    return f"{text} (95 % CI {ends[0]} to {ends[1]})"
