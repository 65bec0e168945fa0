"""`stu weights convert`: flags, the conversion, where the model is."""

from __future__ import annotations

import shlex

from stu_pipeline.cli.options import DebugOption, JsonOption, OneProcessOption, QuietOption, VerboseOption, open_console
from stu_pipeline.cli.weights_options import (
    DatasetNameOption,
    FileArgument,
    LabelsOption,
    MirrorOption,
    OutputFolderOption,
    OverwriteOption,
    PlanNameOption,
    PublishedOption,
    SidecarOption,
    StridesOption,
    parse_strides,
)
from stu_pipeline.transfer.packages.config import ConvertConfig


def convert_command(
    file: FileArgument,
    dataset_name: DatasetNameOption = None,
    output: OutputFolderOption = None,
    plan: PlanNameOption = None,
    mirror: MirrorOption = "none",
    sidecar: SidecarOption = None,
    published: PublishedOption = False,
    labels: LabelsOption = None,
    strides: StridesOption = None,
    overwrite: OverwriteOption = False,
    workers: OneProcessOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a model folder of a file of weights, for stu predict and nnUNetv2_predict.

    For example:

    stu weights convert base_ep4k.model

    stu weights convert weights.model --published -o models/base
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = ConvertConfig(
        file=file,
        sidecar=sidecar,
        dataset_name=dataset_name,
        output=output,
        plan_name=plan,
        labels=labels,
        strides=parse_strides(strides),
        published=published,
        mirror=mirror,
        overwrite=overwrite,
    )
    from stu_pipeline.transfer.packages.convert import convert_weights

    result = convert_weights(config, listen=console.listen)
    console.show(f"model: {result.model_folder}")
    console.show(f"scale {result.scale}, {result.num_labels} outputs; known from {result.facts_source}")
    console.finish(result, next_command=f"stu predict -i IMAGES -o MASKS -m {shlex.quote(str(result.model_folder))}")
