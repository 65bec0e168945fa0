"""Whether weights were trained with the strides of a plan."""

from __future__ import annotations

from collections.abc import Sequence


def compare_strides(
    source: Sequence[Sequence[int]] | None, target: Sequence[Sequence[int]] | None, *, name: str
) -> tuple[str, ...]:
    """Return a sentence where weights were trained with other strides than a plan has, or with unknown ones.

    Strides leave no trace in the weights: they load without a difference, and work worse. Between 2D and 3D the axes
    that both have are compared. Empty where they agree or there is nothing to compare.
    """
    if target is None:
        return ()
    if source is None:
        return (f"the strides that '{name}' was trained with are not known; this plan has {_show_strides(target)}",)
    common = min(len(source[0]), len(target[0]))
    trained, planned = ([list(stride)[-common:] for stride in strides] for strides in (source, target))
    if trained == planned:
        return ()
    return (
        f"'{name}' was trained with strides {_show_strides(source)}, this plan has {_show_strides(target)}: "
        "the weights load, but their stages see other distances",
    )


def _show_strides(strides: Sequence[Sequence[int]]) -> str:
    return " ".join("x".join(str(step) for step in stride) for stride in strides)
