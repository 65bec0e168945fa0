"""`stu compare`: flags, the comparison, sentences and tables."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from stu_pipeline import CompareConfig
from stu_pipeline.cli.options import DebugOption, JsonOption, OneProcessOption, QuietOption, VerboseOption, open_console

_DEFAULTS = CompareConfig(runs=(Path("a"), Path("b")))


def compare_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more evaluated runs: a summary.json, a folder that holds one, or a model folder (all its "
            "validated folds).",
            show_default=False,
        ),
    ],
    metric: Annotated[
        str, typer.Option(help="What to compare: Dice, NSD, HD95_mm or another metric of the summaries.")
    ] = _DEFAULTS.metric,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="What to call a run, once per run in their order (default: its folder)."),
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Compare only the cases and labels that all runs have.")
    ] = _DEFAULTS.common,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder for comparison.json, .csv, .md and .html (default: none is written)."
        ),
    ] = _DEFAULTS.output,
    workers: OneProcessOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare evaluated runs case by case: differences with confidence intervals, paired tests, effect sizes.

    For example:

    stu compare small/summary.json large/summary.json

    stu compare masks_a masks_b masks_c --metric NSD -o comparison
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = CompareConfig(runs=tuple(runs), metric=metric, names=tuple(name or ()), common=common, output=output)
    from stu_pipeline import compare
    from stu_pipeline.evaluation.comparison.tables import build_friedman_table, build_pair_table, build_run_table

    result = compare(config, listen=console.listen)
    tables = [build_run_table(result), *(build_pair_table(pair, result.metric) for pair in result.pairs)]
    if result.friedman:
        tables.insert(1, build_friedman_table(result))
    for table in tables:
        console.show_table(table.title, table.columns, table.rows)
    for pair in result.pairs:
        console.show(pair.sentence)
    if result.files:
        console.show(f"page: {result.files[-1]}")
    again = " ".join(shlex.quote(str(run)) for run in runs)
    other = "HD95_mm" if metric == "Dice" else "Dice"
    next_command = f"stu compare {again} --metric {other}" if result.files else f"stu compare {again} -o comparison"
    console.finish(result, next_command=next_command)
