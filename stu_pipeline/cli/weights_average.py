"""`stu weights average`: folds of one start as one model, if held-out cases say so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stu_pipeline.cli.options import DebugOption, JsonOption, OneProcessOption, QuietOption, VerboseOption, open_console
from stu_pipeline.cli.predict_options import parse_folds
from stu_pipeline.study.averaging.config import AverageConfig


def average_command(
    model: Annotated[Path, typer.Option("-m", "--model", help="Model folder; its folds began with the same weights.")],
    images: Annotated[Path, typer.Option("-i", "--images", help="Images that no fold was trained on.")],
    labels: Annotated[Path, typer.Option("-r", "--labels", help="Their label maps.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Model folder to write, if the average is kept.")],
    folds: Annotated[str, typer.Option("--folds", help="auto takes all trained ones, or 0,1,2.")] = "auto",
    tta: Annotated[str, typer.Option("--tta", help="full or none, for the scoring.")] = "full",
    device: Annotated[str, typer.Option("--device", help="auto, cuda, cpu or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier averaging wrote.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 0,
    workers: OneProcessOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Average the weights of folds that were fine-tuned from one start, and keep the result if held-out cases agree.

    For example:

    stu weights average -m MODEL -i imagesTs -r labelsTs -o averaged

    stu weights average -m MODEL -i imagesTs -r labelsTs -o averaged --folds 0,1,2 --tta none
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    chosen = parse_folds(folds)
    config = AverageConfig(
        model=model,
        images=images,
        labels=labels,
        output=output,
        folds=() if chosen == "auto" else tuple(chosen),
        tta=tta,
        device=device,
        overwrite=overwrite,
        seed=seed,
    )
    from stu_pipeline.study.averaging.average import average_weights

    result = average_weights(config, listen=console.listen)
    rows = [[member.name, f"{member.mean_dice:.4f}"] for member in result.members]
    console.show_table(f"{len(result.cases)} held-out cases", ["model", "Dice"], rows)
    console.show(result.verdict)
    next_command = f"stu predict -i IMAGES -o MASKS -m {output}" if result.kept else ""
    console.finish(result, next_command=next_command)
