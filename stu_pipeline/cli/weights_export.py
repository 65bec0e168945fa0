"""`stu weights export`: flags, the export, hashes."""

from __future__ import annotations

import shlex

from stu_pipeline.cli.options import DebugOption, JsonOption, OneProcessOption, QuietOption, VerboseOption, open_console
from stu_pipeline.cli.weights_options import (
    CheckpointOption,
    FoldsOption,
    FormOption,
    KeepOptimizerOption,
    OutputFileOption,
    OverwriteOption,
    SidecarOption,
    SourceArgument,
    parse_folds,
)
from stu_pipeline.transfer.packages.config import ExportConfig


def export_command(
    source: SourceArgument,
    output: OutputFileOption,
    form: FormOption = None,
    folds: FoldsOption = None,
    checkpoint: CheckpointOption = "final",
    keep_optimizer: KeepOptimizerOption = False,
    sidecar: SidecarOption = None,
    overwrite: OverwriteOption = False,
    workers: OneProcessOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a model or weights for others: safetensors with hashes, nnU-Net's zip, or the published form.

    For example:

    stu weights export MODEL_FOLDER -o liver.zip --folds 0,1,2,3,4

    stu weights export MODEL_FOLDER -o liver.safetensors --folds 0
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = ExportConfig(
        source=source,
        output=output,
        form=form,
        folds=parse_folds(folds),
        checkpoint=checkpoint,
        keep_optimizer=keep_optimizer,
        sidecar=sidecar,
        overwrite=overwrite,
    )
    from stu_pipeline.transfer.packages.export import export_weights

    result = export_weights(config, listen=console.listen)
    for file in result.files:
        console.show(f"{result.sha256[file.name]}  {file}")
    verb = "inspect" if result.form == "published" or not source.is_dir() else "install"
    console.finish(result, next_command=f"stu weights {verb} {shlex.quote(str(result.files[0]))}")
