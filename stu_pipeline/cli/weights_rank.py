"""`stu weights rank`: which weights to start from, for one dataset."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from stu_pipeline.cli.options import (
    DatasetArgument,
    DebugOption,
    JsonOption,
    OneProcessOption,
    QuietOption,
    VerboseOption,
    open_console,
)
from stu_pipeline.training.ranking.config import SCRATCH, RankConfig, RankResult

_DEFAULTS = RankConfig(dataset="DATASET", weights=(Path("a"),))


def rank_command(
    dataset: DatasetArgument,
    weights: Annotated[
        list[Path], typer.Argument(help="Files of weights to choose from; untrained ones always take part.")
    ],
    scale: Annotated[
        str | None, typer.Option("--scale", help="Whose plan says spacing and patch (default: the only plan).")
    ] = _DEFAULTS.scale,
    plan: Annotated[str | None, typer.Option("--plan", help="Name of that plan.")] = _DEFAULTS.plan_name,
    configuration: Annotated[
        str | None, typer.Option("--configuration", help="Default: 3d_fullres, or 2d for flat data.")
    ] = _DEFAULTS.configuration,
    cases: Annotated[int, typer.Option("--cases", help="Training cases to look at.")] = _DEFAULTS.num_cases,
    patches: Annotated[int, typer.Option("--patches", help="Patches per case.")] = _DEFAULTS.num_patches,
    device: Annotated[str, typer.Option("--device", help="auto, cuda, cpu or mps.")] = _DEFAULTS.device,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of cases and voxels.")] = _DEFAULTS.seed,
    workers: OneProcessOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Rank weights by how well their features tell the labels of a dataset apart, in minutes and without training.

    For example:

    stu weights rank 4 small_ep4k.model pretrained.safetensors

    stu weights rank Dataset701_Liver a.pth b.pth --plan stuBPlans --cases 30
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = RankConfig(
        dataset=dataset,
        weights=tuple(weights),
        scale=scale,
        plan_name=plan,
        configuration=configuration,
        num_cases=cases,
        num_patches=patches,
        device=device,
        seed=seed,
    )
    from stu_pipeline.training.ranking.rank import rank_weights

    result = rank_weights(config, listen=console.listen)
    console.show_table(
        f"{len(result.cases)} cases, {result.elapsed_s:.0f} s",
        ["weights", "scale", "AUROC", "to the best", "95 % interval", "first in"],
        [
            [
                row.name,
                row.scale,
                f"{row.score:.4f}",
                f"{row.difference:+.4f}" if row is not result.rows[0] else "",
                f"{row.ci_low:+.4f} to {row.ci_high:+.4f}" if row is not result.rows[0] else "",
                f"{row.chance_best:.0%}",
            ]
            for row in result.rows
        ],
    )
    console.show(result.verdict)
    console.finish(result, next_command=_name_next_command(config, result))


def _name_next_command(config: RankConfig, result: RankResult) -> str:
    best = result.rows[0].name
    if best == SCRATCH:
        return f"stu plan {config.dataset}"
    path = next(path for path in config.weights if path.absolute().as_posix().endswith(best))
    return f"stu plan {config.dataset} --pretrained {shlex.quote(str(path))}"
