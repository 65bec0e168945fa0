"""What decides the masks of a prediction besides the images: models by their content, and options."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.models.model_identity import ModelIdentity, identify_opened_model
from stu_pipeline.records import describe

if TYPE_CHECKING:
    from stu_pipeline.prediction.models.model_folder import ModelFolder

# Always in a recipe, whatever their value.
_ALWAYS = ("tta", "step", "precision", "probabilities")
# Where things are, what is done with results, and how many hands do it: none of it decides a mask. The models are in
# a recipe by their content.
_WITHOUT = frozenset(
    {"input", "output", "models", "folds", "checkpoint", "configuration", "model_weights", "device", "gpus"}
    | {"max_ram_gib", "overwrite", "verify", "dry_run", "report", "num_workers"}
)


def describe_recipe(
    config: PredictConfig, models: Sequence[ModelIdentity | ModelFolder], **decisions: Any
) -> dict[str, Any]:
    """Describe what decides the masks: models by content, and options. Devices and workers are not part of it.

    A new option is part of it unless it is listed here as one that decides nothing. At its default it is left out, so
    that the masks of earlier versions stay proven.

    Args:
        config: what was asked for.
        models: opened, or only identified; both give the same recipe.
        decisions: anything else that decides masks, for example the hash of learned post-processing; None counts as
            not there.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    options = {
        name: describe(value)
        for name in defaults
        if name not in _WITHOUT and ((value := getattr(config, name)) != defaults[name] or name in _ALWAYS)
    }
    identities = [item if isinstance(item, ModelIdentity) else identify_opened_model(item) for item in models]
    return {
        "models": [identity.describe() for identity in identities],
        "model_weights": list(config.model_weights or [1.0] * len(models)),
        **options,
        **{name: describe(value) for name, value in decisions.items() if value is not None},
    }


def hash_recipe(recipe: dict[str, Any]) -> str:
    """Return a SHA-256 that stands for a recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
