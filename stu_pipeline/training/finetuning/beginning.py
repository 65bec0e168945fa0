"""Begin a training with given weights: put them into the fresh network, and note how everything moves from there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from stu_pipeline.log import Listener, Notice
from stu_pipeline.nnunet.optimizer import build_optimizer
from stu_pipeline.nnunet.trainer import nnUNetTrainer
from stu_pipeline.training.finetuning.groups import HEADS, Tuning, plan_tuning
from stu_pipeline.training.finetuning.origin import Origin, list_kept_outputs
from stu_pipeline.training.finetuning.recipes import RECIPES, Recipe
from stu_pipeline.training.finetuning.starting_weights import (
    copy_weights,
    read_starting_weights,
    write_starting_weights,
)
from stu_pipeline.training.finetuning.steering import Steering
from stu_pipeline.training.finetuning.telling import describe_beginning
from stu_pipeline.training.parallel.reduce import broadcast_from_main, share_from_main
from stu_pipeline.training.run.start import STARTING_WEIGHTS
from stu_pipeline.transfer.loading.adapt import AdaptedWeights

STARTING_WEIGHTS_KEY = "starting_weights"
TUNING_KEY = "tuning"
_log = logging.getLogger("stu_pipeline.training")


def begin_with_origin(trainer: nnUNetTrainer, origin: Origin | None, listen: Listener) -> None:
    """Load weights into a network that was just initialised; every rank must call it, rank 0 has the origin.

    Call it before the network is sharded, compiled or wrapped. All ranks hold equal weights afterwards.

    Raises:
        ModelError: the weights do not fit; they were checked before, so this is a bug or a changed file.
    """
    network = trainer.bare_network
    if origin is not None:
        adapted = origin.adapt(network.state_dict())
        network.load_state_dict(adapted.tensors)
        recipe = RECIPES[str(trainer.settings.recipe)]
        tuning = _plan(adapted, recipe, trainer)
        trainer.start = _describe_start(origin, adapted, recipe, tuning)
        _log.info("weights of %s:\n%s", origin.weights.path, "\n".join(adapted.table.write_lines()))
        for text in describe_beginning(adapted.table, trainer.settings, tuning):
            _log.info("%s", text)
            listen(Notice(text=text))
        for text in origin.warnings:
            _log.warning("%s", text)
            listen(Notice(text=text, is_warning=True))
    trainer.start = share_from_main(trainer.start)
    broadcast_from_main(network.state_dict().values())


def group_weights(trainer: nnUNetTrainer) -> None:
    """Build the optimizer with the groups of the trainer's start; one group stays as nnU-Net has it."""
    tuning = find_tuning(trainer.start)
    groups = [] if tuning is None else tuning.list_optimizer_groups(trainer.weight_decay)
    if groups:
        trainer.optimizer = build_optimizer(
            trainer.bare_network,
            learning_rate=trainer.initial_lr,
            weight_decay=trainer.weight_decay,
            groups=groups,
        )


def open_steering(trainer: nnUNetTrainer, *, is_new: bool) -> Steering | None:
    """Return what steers the steps of a training; None where all weights move alike. Every rank must call it.

    Starting weights that a recipe pulls to are written when a training begins, and read when it goes on.

    Raises:
        ModelError: the file with the starting weights is missing or another one.
        StorageError: it cannot be written.
    """
    tuning = find_tuning(trainer.start)
    if tuning is None or tuning.is_plain:
        return None
    network, folder = trainer.bare_network, trainer.paths.folder
    names = [name for group in tuning.groups if group.start_pull for name in group.parameters]
    if not names:
        weights = {}
    elif is_new:
        weights = copy_weights(network, names)
        digest = write_starting_weights(folder, weights) if trainer.local_rank == 0 else None
        trainer.start = {
            **trainer.start,
            STARTING_WEIGHTS_KEY: {"file": STARTING_WEIGHTS, "sha256": share_from_main(digest)},
        }
    else:
        stored = trainer.start.get(STARTING_WEIGHTS_KEY) or {}
        weights = read_starting_weights(folder, stored.get("sha256"), network, names)
    return Steering(network, tuning, weights, weight_decay=trainer.weight_decay)


def find_tuning(start: Mapping[str, Any]) -> Tuning | None:
    """Return how the weights of a training move, from what its checkpoints keep of its start; None from scratch."""
    content = start.get(TUNING_KEY)
    return None if content is None else Tuning.from_json(content)


def _plan(adapted: AdaptedWeights, recipe: Recipe, trainer: nnUNetTrainer) -> Tuning:
    kept = list_kept_outputs(adapted)
    return plan_tuning(
        recipe,
        adapted.origins,
        num_epochs=trainer.num_epochs,
        weight_decay=trainer.weight_decay,
        kept_rows={name: kept for name in adapted.origins if name.startswith(HEADS)},
    )


def _describe_start(origin: Origin, adapted: AdaptedWeights, recipe: Recipe, tuning: Tuning) -> dict[str, Any]:
    weights = origin.weights
    return {
        "kind": "pretrained",
        "file": weights.path.name,
        "form": weights.form,
        "identity": weights.identity,
        "scale": weights.network.scale,
        "recipe": recipe.name,
        "table": adapted.table.to_json(),
        TUNING_KEY: tuning.to_json(),
        STARTING_WEIGHTS_KEY: None,
    }
