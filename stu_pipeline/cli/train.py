"""`stu train`: nnU-Net's loop with STU-Net."""

from __future__ import annotations

from typing import Annotated

import typer

from stu_pipeline.cli.console import Console, format_seconds
from stu_pipeline.cli.options import (
    DatasetArgument,
    DebugOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    WorkersOption,
    open_console,
)


def train_command(
    dataset: DatasetArgument,
    fold: Annotated[str, typer.Option("--fold", help="0..4, several as 0,1,2, or all.")] = "0",
    scale: Annotated[str | None, typer.Option("--scale", help="S, B, L or H (default: the only plan).")] = None,
    plan: Annotated[str | None, typer.Option("--plan", help="Name of the plan, when it is not a scale's own.")] = None,
    configuration: Annotated[
        str | None, typer.Option("--configuration", help="2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Epochs; the schedule scales along. [1000]")] = None,
    iterations: Annotated[int | None, typer.Option("--iterations", help="Training steps per epoch. [250]")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Initial learning rate. [0.01]")] = None,
    precision: Annotated[str, typer.Option("--precision", help="auto, bf16, fp16 or fp32.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cuda, cpu or mps.")] = "auto",
    resume: Annotated[
        str, typer.Option("--resume", help="auto continues the newest valid checkpoint; never.")
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Train a finished fold again and replace it.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the weights and of this process.")] = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Ask for deterministic kernels.")] = False,
    workers: WorkersOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train one or several folds of a plan; run it again and it continues.

    For example:

    stu train 4 --scale B --fold 0

    stu train Dataset004_Hippocampus --scale S --fold 0,1,2,3,4 --epochs 200 --device cpu
    """
    from stu_pipeline import TrainConfig, TrainResult, train

    console = open_console(json=json, verbose=verbose, quiet=quiet)
    configs = [
        TrainConfig(
            dataset=dataset,
            fold=one,
            scale=scale,
            plan_name=plan,
            configuration=configuration,
            num_epochs=epochs,
            num_iterations=iterations,
            learning_rate=lr,
            precision=precision,
            device=device,
            resume=resume,
            force=force,
            seed=seed,
            deterministic=deterministic,
            num_workers=workers,
        )
        for one in parse_folds(fold)
    ]
    view = TrainingView(console)
    results: list[TrainResult] = []
    for config in configs:
        result = train(config, listen=view.listen)
        results.append(result)
        state = "already complete" if result.was_finished else f"done in {format_seconds(result.elapsed_s)}"
        console.show(f"fold {result.fold} {state}, mean Dice {_dice(result.mean_dice)}, in {result.run_folder}")
    last = results[-1]
    rows = [[f"fold {r.fold}", *[_dice(value) for value in r.dice.values()], _dice(r.mean_dice)] for r in results]
    console.show_table("Dice of the final validation", ["", *last.dice, "mean"], rows)
    if last.cross_validation is not None:
        console.show(f"all folds are there, summary: {last.cross_validation}")
    next_command = f"stu predict -i FOLDER -o FOLDER -m {last.model_folder}"
    console.finish(results[0] if len(results) == 1 else {"folds": results}, next_command=next_command)


def parse_folds(text: str) -> list[int | str]:
    """Read `0`, `0,1,2` or `all`.

    Raises:
        UsageError: anything else.
    """
    from stu_pipeline.errors import UsageError

    parts = [part.strip() for part in text.split(",")]
    folds: list[int | str] = [int(part) if part.isdecimal() else part for part in parts]
    if any(fold != "all" and not isinstance(fold, int) for fold in folds) or len(set(folds)) != len(folds):
        raise UsageError(f"cannot read fold '{text}', expected 0..4, a list like 0,1,2, or all")
    return folds


class TrainingView:
    """One line per epoch: loss, Dice per label, seconds, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._epoch_s: list[float] = []

    def listen(self, event: object) -> None:
        """Render one event."""
        from stu_pipeline.nnunet.events import EpochDone

        if isinstance(event, EpochDone):
            self._console.say(self._describe(event))
        else:
            self._console.listen(event)

    def _describe(self, event: object) -> str:
        from stu_pipeline.nnunet.events import EpochDone

        if not isinstance(event, EpochDone):
            return ""
        self._epoch_s = [*self._epoch_s[-19:], event.elapsed_s]
        left = sum(self._epoch_s) / len(self._epoch_s) * (event.num_epochs - event.epoch - 1)
        dice = " ".join(f"{name} {_dice(value)}" for name, value in list(event.dice.items())[:6])
        more = f" (+{len(event.dice) - 6} labels)" if len(event.dice) > 6 else ""
        skipped = f", {event.num_skipped_steps} steps skipped" if event.num_skipped_steps else ""
        return (
            f"epoch {event.epoch + 1}/{event.num_epochs}  loss {event.train_loss:.4f} / {event.val_loss:.4f}  "
            f"Dice {_dice(event.mean_dice)} [{dice}{more}]  {event.elapsed_s:.1f} s, "
            f"{event.data_wait:.0%} waiting, {format_seconds(left)} left{'  *' if event.is_best else ''}{skipped}"
        )


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
