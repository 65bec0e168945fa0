"""`stu doctor`: what is wrong here, and what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from stu_pipeline.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption, WorkersOption, open_console

_PROBLEM_EXIT_CODE = 3


def doctor_command(
    dataset: Annotated[str | None, typer.Argument(help="A dataset to check as well: id, name or path.")] = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Check this machine, this installation and, when given, a dataset.

    For example:

    stu doctor

    stu doctor Dataset004_Hippocampus
    """
    from stu_pipeline.doctor import diagnose
    from stu_pipeline.nnunet.environment import count_usable_cores

    console = open_console(json=json, verbose=verbose, quiet=quiet)
    num_workers = workers if workers is not None else count_usable_cores()
    findings = diagnose(dataset, num_workers=num_workers, listen=console.listen)
    rows = [[finding.status, finding.area, finding.what, finding.hint] for finding in findings]
    console.show_table("stu doctor", ["", "area", "found", "what to do"], rows)
    problems = [finding for finding in findings if finding.status == "problem"]
    warnings = [finding for finding in findings if finding.status == "warning"]
    console.show(f"{len(problems)} problems, {len(warnings)} warnings")
    next_command = f"stu plan {dataset}" if dataset and not problems else ""
    document = {"findings": findings, "num_problems": len(problems), "num_warnings": len(warnings)}
    console.finish(document, next_command=next_command)
    return _PROBLEM_EXIT_CODE if problems else 0
