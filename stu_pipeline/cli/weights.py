"""`stu weights`: the commands that look at files of weights and move them."""

from __future__ import annotations

import typer

from stu_pipeline.cli.weights_average import average_command
from stu_pipeline.cli.weights_convert import convert_command
from stu_pipeline.cli.weights_export import export_command
from stu_pipeline.cli.weights_inspect import inspect_command
from stu_pipeline.cli.weights_install import install_command
from stu_pipeline.cli.weights_rank import rank_command

weights_app = typer.Typer(
    help="Look at files of weights, turn published ones into models, choose between them, and pass models on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
weights_app.command("inspect")(inspect_command)
weights_app.command("convert")(convert_command)
weights_app.command("export")(export_command)
weights_app.command("install")(install_command)
weights_app.command("rank")(rank_command)
weights_app.command("average")(average_command)
