"""`stu weights install`: flags, the installation, where the models are."""

from __future__ import annotations

import shlex

from stu_pipeline.cli.options import DebugOption, JsonOption, OneProcessOption, QuietOption, VerboseOption, open_console
from stu_pipeline.cli.weights_options import OverwriteOption, PackageArgument, ResultsOption
from stu_pipeline.transfer.packages.config import InstallConfig


def install_command(
    file: PackageArgument,
    results: ResultsOption = None,
    overwrite: OverwriteOption = False,
    workers: OneProcessOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Put the models of a package among the results. Nothing in it is run; all of it is checked first.

    For example:

    stu weights install liver.zip

    stu weights install liver.safetensors --results models
    """
    console = open_console(json=json, verbose=verbose, quiet=quiet)
    config = InstallConfig(file=file, results=results, overwrite=overwrite)
    from stu_pipeline.transfer.packages.install import install_weights

    result = install_weights(config, listen=console.listen)
    for model in result.models:
        console.show(f"model: {model}")
    proof = "its own hashes fit" if result.is_proven else "it has no hashes of its own"
    checkpoints = f"{result.num_checkpoints} checkpoint{'s' if result.num_checkpoints > 1 else ''}"
    console.show(f"{checkpoints}, {result.num_bytes / 2**20:.0f} MiB; {proof}")
    models = " ".join(f"-m {shlex.quote(str(model))}" for model in result.models[:1])
    console.finish(result, next_command=f"stu predict -i IMAGES -o MASKS {models}")
