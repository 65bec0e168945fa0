"""What leaving sure tiles alone saved, and what it can have changed, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from stu_pipeline.inference.window_statistics import WindowStatistics


def collect_saving(parts: Sequence[WindowStatistics]) -> WindowStatistics:
    """Add up the counts of the windows of a case."""
    total = WindowStatistics()
    for part in parts:
        total.add(part)
    return total


def describe_saving(found: WindowStatistics) -> tuple[str, ...]:
    """Describe what was saved; nothing to say where every pass was run.

    >>> describe_saving(WindowStatistics(passes_run=20, passes_full=80, tiles=10, tiles_skipped=6))
    ('ran 20 of 80 passes (25 %), 6 of 10 tiles were sure; none of them was audited',)
    """
    if not found.tiles_skipped and not found.tiles_audited:
        return ()
    text = (
        f"ran {found.passes_run} of {found.passes_full} passes ({found.passes_share:.0%}), "
        f"{found.tiles_skipped} of {found.tiles} tiles were sure"
    ).replace("%)", " %)")
    if found.changed_share is None:
        return (f"{text}; none of them was audited",)
    return (
        f"{text}; in {found.tiles_audited} audited ones {100 * found.changed_share:.3f} % of the voxels changed, "
        f"at most {100 * found.changed_share_bound:.3g} % (95 % confidence)",
    )
