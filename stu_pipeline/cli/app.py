"""Assemble the commands. Each lives in its own file; nothing heavy is imported before one runs."""

from __future__ import annotations

import typer

from stu_pipeline.cli.calibrate import calibrate_command
from stu_pipeline.cli.compare import compare_command
from stu_pipeline.cli.demo import demo_command
from stu_pipeline.cli.doctor import doctor_command
from stu_pipeline.cli.evaluate import evaluate_command
from stu_pipeline.cli.plan import plan_command
from stu_pipeline.cli.predict import predict_command
from stu_pipeline.cli.study import study_command
from stu_pipeline.cli.train import train_command
from stu_pipeline.cli.weights import weights_app

app = typer.Typer(
    name="stu",
    help="Plan, train and predict with STU-Net inside nnU-Net's loop.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("plan")(plan_command)
app.command("train")(train_command)
app.command("predict")(predict_command)
app.command("calibrate")(calibrate_command)
app.command("evaluate")(evaluate_command)
app.command("compare")(compare_command)
app.command("study")(study_command)
app.add_typer(weights_app, name="weights")
app.command("doctor")(doctor_command)
app.command("demo")(demo_command)


def _show_version(value: bool) -> None:
    if value:
        from stu_pipeline import __version__

        typer.echo(f"stu {__version__}")
        raise typer.Exit


@app.callback()
def callback(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Plan, train and predict with STU-Net inside nnU-Net's loop."""
