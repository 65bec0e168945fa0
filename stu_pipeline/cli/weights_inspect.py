"""`stu weights inspect`: flags, the inspection, tables."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stu_pipeline.cli.options import DebugOption, JsonOption, OneProcessOption, QuietOption, VerboseOption, open_console

if TYPE_CHECKING:
    from stu_pipeline.transfer.inspection.inspect import Inspection


def inspect_command(
    file: Annotated[Path, typer.Argument(help="A .model as STU-Net was released, a .pth, or a .safetensors.")],
    sidecar: Annotated[
        Path | None, typer.Option(help="The .pkl released with a .model (default: the one beside it).")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="List every layer.")] = False,
    workers: OneProcessOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what is in a file of weights: network, labels, strides, and how far it is from a fresh network.

    The file is read as data; nothing in it is run.

    For example:

    stu weights inspect base_ep4k.model

    stu weights inspect checkpoint_final.pth --layers
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    from stu_pipeline.transfer.inspection.inspect import inspect_weights
    from stu_pipeline.transfer.inspection.tables import (
        build_fact_table,
        build_layer_table,
        build_part_table,
        write_verdict,
    )

    inspection = inspect_weights(file, sidecar=sidecar)
    build_details = build_layer_table if layers else build_part_table
    for table in (build_fact_table(inspection), build_details(inspection)):
        console.show_table(table.title, table.columns, table.rows)
    for line in write_verdict(inspection):
        console.show(line)
    console.finish(inspection, next_command=_choose_next(inspection))


def _choose_next(inspection: Inspection) -> str:
    if not inspection.is_usable:
        return ""
    file = shlex.quote(str(inspection.path))
    if inspection.form == "published" and inspection.facts.label_names is not None:
        return f"stu weights convert {file}"
    return f"stu plan DATASET --pretrained {file}"
