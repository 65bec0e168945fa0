"""Say what a training begins with: in short for people, in full for the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.training.finetuning.groups import Tuning
from stu_pipeline.training.finetuning.recipes import RECIPES
from stu_pipeline.transfer.loading.table import LoadTable


def describe_beginning(table: LoadTable, settings: TrainerSettings, tuning: Tuning) -> Iterator[str]:
    """Say where the weights come from and by which recipe they move, a few lines in all."""
    recipe = RECIPES[str(settings.recipe)]
    warmup = f", after a warm-up of {settings.warmup_epochs:g} epochs" if settings.warmup_epochs else ""
    yield from shorten_table(table)
    yield f"recipe '{recipe.name}': {recipe.summary}; learning rate {settings.learning_rate:g}{warmup}"
    if len(tuning.groups) > 1:
        yield (
            f"several optimizer groups ({len(tuning.groups)}) cannot be continued by stock nnUNetv2_train --c; "
            "stu train continues them"
        )


def shorten_table(table: LoadTable) -> list[str]:
    """Write the table with one line for all parts that became the same, then the outputs. Notes are left out."""
    parts: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        if row.part != "heads":
            parts.setdefault((row.origin, row.how), []).append(row.part)
    lines = [
        f"{origin}: {_join_numbers(names)}" + (f" ({how})" if how else "") for (origin, how), names in parts.items()
    ]
    rest = table.write_lines()[len(table.rows) :]
    return [*lines, *rest[: len(rest) - len(table.notes)]]


def _join_numbers(names: Sequence[str]) -> str:
    """Join names, those that differ in their last number into one.

    >>> _join_numbers(["stem", "encoder stage 0", "encoder stage 1", "encoder stage 2", "upsampling"])
    'stem, encoder stage 0 to 2, upsampling'
    """
    runs: list[list[str]] = []
    for name in names:
        kind, _, number = name.rpartition(" ")
        last_kind, _, last_number = runs[-1][-1].rpartition(" ") if runs else ("", "", "")
        is_next = (
            kind == last_kind and number.isdigit() and last_number.isdigit() and int(number) == int(last_number) + 1
        )
        runs[-1].append(name) if is_next else runs.append([name])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1].rpartition(' ')[2]}" for run in runs)
