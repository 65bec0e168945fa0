"""What became of every weight when a network was loaded from another: for people, and for `run.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from stu_pipeline.transfer.loading.heads import HeadRow

Origin = Literal["loaded", "adapted", "initialised"]
"""`loaded`: bit-exact; `adapted`: made from the source's weights; `initialised`: started anew."""

_MAX_NAMED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """One part of the network, or the part of it that has one origin."""

    part: str
    """'stem', 'encoder stage 0' (full resolution) to 5, 'upsampling', 'decoder level 0' (coarsest) to 4, 'heads'."""
    origin: Origin
    how: str
    """How it was adapted, or why it was not loaded; empty for what was loaded as it is."""
    num_tensors: int
    num_parameters: int
    share: float
    """Of all parameters of the target."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `run.json`."""
        return {
            "part": self.part,
            "origin": self.origin,
            "how": self.how,
            "num_tensors": self.num_tensors,
            "num_parameters": self.num_parameters,
            "share": self.share,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTable:
    """Where the weights of a network come from, part by part and output by output."""

    source: str
    """Name of the file."""
    identity: str
    """Of the weights, as `WeightFile` has it."""
    rows: tuple[LoadRow, ...]
    heads: tuple[HeadRow, ...]
    notes: tuple[str, ...] = ()
    """What the reader should know besides: strides that differ or are not known."""

    def measure_share(self, origin: Origin) -> float:
        """Return the share of all parameters that has an origin."""
        return sum(row.share for row in self.rows if row.origin == origin)

    def list_fresh_labels(self) -> tuple[str, ...]:
        """List the outputs that start anew."""
        return tuple(row.target for row in self.heads if row.source is None)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `run.json`."""
        return {
            "source": self.source,
            "identity": self.identity,
            "shares": {origin: self.measure_share(origin) for origin in ("loaded", "adapted", "initialised")},
            "parts": [row.to_json() for row in self.rows],
            "heads": [row.to_json() for row in self.heads],
            "notes": list(self.notes),
        }

    def write_lines(self) -> list[str]:
        """Return the table as lines of text: one per part, then the outputs, then the notes."""
        width = max(len(row.part) for row in self.rows)
        lines = [
            f"{row.part:<{width}}  {row.origin:<11}  {row.num_tensors:>3} tensors  {row.num_parameters:>13,} parameters"
            f"  {row.share:6.1%}  {row.how}".rstrip()
            for row in self.rows
        ]
        shares = ", ".join(
            f"{origin} {share:.1%}"
            for origin in ("loaded", "adapted", "initialised")
            if (share := self.measure_share(origin))
        )
        return [*lines, f"from '{self.source}': {shares}", *self._write_heads(), *self.notes]

    def _write_heads(self) -> list[str]:
        reused = [row for row in self.heads if row.source is not None]
        fresh = [row for row in self.heads if row.source is None]
        lines = [f"head '{row.target}' <- '{row.source}' ({row.reason})" for row in reused if row.target != row.source]
        same = [row.target for row in reused if row.target == row.source]
        if same:
            lines.append(f"heads of the same name: {_list_names(same)}")
        for reason in dict.fromkeys(row.reason for row in fresh):
            lines.append(
                f"heads started anew, {reason}: {_list_names([r.target for r in fresh if r.reason == reason])}"
            )
        return lines


def _list_names(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED} more"
