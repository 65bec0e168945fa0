"""`stu demo`: the whole pipeline on generated volumes, in minutes on a CPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stu_pipeline.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption, WorkersOption, open_console

if TYPE_CHECKING:
    from stu_pipeline import EvaluateResult
    from stu_pipeline.cli.console import Console

_DATASET = "Dataset999_StuPhantom"
# Volumes of roughly this size are learned in minutes on two cores.
_SHAPE = (32, 64, 64)


def demo_command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything the demo makes.")] = Path(
        "demo"
    ),
    scale: Annotated[str, typer.Option("--scale", help="S, B, L or H.")] = "S",
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs of the training.")] = 15,
    iterations: Annotated[int, typer.Option("--iterations", help="Steps per epoch.")] = 15,
    cases: Annotated[int, typer.Option("--cases", help="Training cases to generate.")] = 8,
    workers: WorkersOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Make phantom volumes, then plan, train, predict and evaluate on them. Run it again and it continues.

    For example:

    stu demo

    stu demo --output somewhere --epochs 30
    """
    from stu_pipeline import PlanConfig, PreprocessConfig, TrainConfig, plan, preprocess, train
    from stu_pipeline.cli.train_view import TrainingView
    from stu_pipeline.datasets.phantom import write_phantom_dataset
    from stu_pipeline.workspace import use_workspace

    console = open_console(json=json, verbose=verbose, quiet=quiet)
    start = time.monotonic()
    root = output.absolute()
    with use_workspace(root / "workspace") as workspace:
        console.say(f"1/5 phantoms: {cases} training cases, 2 test cases in {workspace.raw}")
        raw = write_phantom_dataset(workspace.raw, name=_DATASET, num_cases=cases, num_test=2, shape=_SHAPE)
        console.say("2/5 plan and preprocess")
        planned = plan(PlanConfig(dataset=str(raw), scale=scale, num_workers=workers), listen=console.listen)
        wanted = PreprocessConfig(dataset=str(raw), plan_name=planned.plan_name, num_workers=workers)
        preprocess(wanted, listen=console.listen)
        console.say(f"3/5 train fold 0: {epochs} epochs of {iterations} steps")
        with TrainingView(console) as view:
            trained = train(
                TrainConfig(
                    dataset=str(raw),
                    plan_name=planned.plan_name,
                    num_epochs=epochs,
                    num_iterations=iterations,
                    seed=0,
                    num_workers=workers,
                ),
                listen=view.listen,
            )
        result, picture = _predict_and_score(console, raw, trained.model_folder, root)
    for label in result.labels:
        console.show(f"{label.name}: Dice {label.dice.mean:.3f}" if label.dice.mean is not None else f"{label.name}: -")
    console.show(f"mean Dice of the test cases {result.mean_dice or 0:.3f}, after {time.monotonic() - start:.0f} s")
    console.show(f"look at: {picture}")
    console.show(f"and at:  {trained.run_folder / 'progress.png'}")
    document = {"training": trained, "evaluation": result, "picture": picture}
    console.finish(document, next_command="stu plan DATASET")


def _predict_and_score(console: Console, raw: Path, model: Path, root: Path) -> tuple[EvaluateResult, Path]:
    from stu_pipeline import EvaluateConfig, PredictConfig, evaluate, predict
    from stu_pipeline.evaluation.overlay import draw_overlay

    masks = root / "masks"
    console.say("4/5 predict the test cases, with mirroring")
    predict(PredictConfig(input=raw / "imagesTs", output=masks, models=(model,), overwrite=True), listen=console.listen)
    console.say("5/5 evaluate")
    result = evaluate(EvaluateConfig(reference=raw / "labelsTs", prediction=masks), listen=console.listen)
    first = sorted((raw / "labelsTs").glob("*.nii.gz"))[0]
    image = raw / "imagesTs" / first.name.replace(".nii.gz", "_0000.nii.gz")
    picture = root / "overlay.png"
    title = f"{first.name}, mean Dice of the test cases {result.mean_dice or 0:.3f}"
    draw_overlay(image, masks / first.name, picture, reference=first, title=title)
    return result, picture
