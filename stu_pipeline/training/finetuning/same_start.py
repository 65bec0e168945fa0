"""Whether a fold that has begun, or is finished, began with what is asked for now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.log import Listener, Notice
from stu_pipeline.training.config import TrainConfig

_HINT = "train another plan with --plan NAME, or start anew with --force"


def require_same_start(
    config: TrainConfig, start: Mapping[str, Any], *, identity: str | None, where: Path, listen: Listener
) -> None:
    """Compare what a fold began with to what is asked for. What is not asked for goes on as it began, and is told.

    Args:
        config: the flags.
        start: of the fold; kind `unknown` is taken as it is.
        identity: of the weights that are asked for; None where none are.
        where: the run folder.
        listen: is told where a fold that was fine-tuned goes on without its weights being named.

    Raises:
        ModelError: it began with other weights, or with none.
        UsageError: it goes by another recipe.
    """
    if start["kind"] == "unknown":
        if identity is not None:
            text = "the checkpoint is of stock nnU-Net and does not say which weights the training began with"
            listen(Notice(text=text, is_warning=True))
        return
    stored = start.get("identity")
    if identity is None and stored is not None:
        text = f"this fold began with the weights of '{start['file']}', recipe '{start['recipe']}', not from scratch"
        listen(Notice(text=text, is_warning=config.recipe is None))
    elif identity != stored:
        began = "from scratch" if stored is None else f"with the weights of '{start['file']}'"
        file = config.pretrained.name if config.pretrained is not None else ""
        raise ModelError(f"fold {config.fold} began {began}, not with those of '{file}'", where=where, hint=_HINT)
    if config.recipe is not None and config.recipe != start.get("recipe"):
        began = f"goes by recipe '{start['recipe']}'" if stored is not None else "began from scratch, without a recipe"
        raise UsageError(f"fold {config.fold} {began}, not by '{config.recipe}'", where=where, hint=_HINT)


def require_weights_for_recipe(config: TrainConfig) -> None:
    """Refuse a recipe for a training that begins from scratch.

    Raises:
        UsageError: there is a recipe and nothing to fine-tune.
    """
    if config.recipe is not None and config.pretrained is None:
        raise UsageError(
            f"recipe '{config.recipe}' fine-tunes weights, and none are given", hint="add --pretrained FILE"
        )
