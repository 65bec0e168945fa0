"""Where in an epoch a training stands: what a checkpoint needs to go on from exactly there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True, kw_only=True)
class Position:
    """The part of the current epoch that is done. Moves with every step."""

    step: int = 0
    """Steps done; all of them, when the validation patches were next."""
    losses: list[float] = field(default_factory=list)
    """Losses of those that counted."""
    num_skipped: int = 0
    elapsed_s: float = 0.0
    is_complete: bool = False
    """The training is over, by its last epoch or for want of progress."""

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Position:
        """Read what `to_json` gave; nothing gives the start of an epoch.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls(
                step=int(content.get("step", 0)),
                losses=[float(loss) for loss in content.get("losses", [])],
                num_skipped=int(content.get("num_skipped", 0)),
                elapsed_s=float(content.get("elapsed_s", 0.0)),
                is_complete=bool(content.get("is_complete", False)),
            )
        except (TypeError, AttributeError) as error:
            raise ValueError(f"position in the epoch is malformed: {error}") from error
