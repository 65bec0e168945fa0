"""`stu doctor`: what is wrong here, and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stu_pipeline.cli.options import DebugOption, JsonOption, QuietOption, VerboseOption, WorkersOption, open_console

if TYPE_CHECKING:
    from stu_pipeline.cli.console import Console
    from stu_pipeline.doctor.diagnose import Diagnosis

_PROBLEM_EXIT_CODE = 3
_MAX_WIDTH = 100


def doctor_command(
    dataset: Annotated[str | None, typer.Argument(help="A dataset to check as well: id, name or path.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write what was found about the dataset as a page with pictures.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option("--fix", help="Write a corrected copy of the dataset here, where the mend is certain."),
    ] = None,
    workers: WorkersOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Check this machine, this installation and, when given, a dataset: all problems, by what to do.

    For example:

    stu doctor

    stu doctor Dataset004_Hippocampus --html hippocampus.html

    stu doctor Dataset701_Liver --fix Dataset702_LiverFixed
    """
    from stu_pipeline.doctor.diagnose import diagnose
    from stu_pipeline.doctor.mending.fix import require_target, write_fixed_copy
    from stu_pipeline.doctor.report.page import require_page, write_page
    from stu_pipeline.host import count_usable_cores

    console = open_console(json=json, verbose=verbose, quiet=quiet)
    num_workers = workers if workers is not None else count_usable_cores()
    # Refused before the dataset is read, which may take an hour.
    require_page(html, dataset)
    require_target(fix, dataset)
    diagnosis = diagnose(dataset, num_workers=num_workers, listen=console.listen)
    document = diagnosis.describe()
    _show(console, diagnosis)
    if html is not None and diagnosis.dataset is not None:
        write_page(diagnosis.dataset, html, num_workers=num_workers, listen=console.listen)
        console.say(f"page: {html}")
        document["html"] = str(html)
    next_command = f"stu plan {dataset}" if dataset and not diagnosis.num_problems else ""
    if fix is not None and diagnosis.dataset is not None:
        outcome = write_fixed_copy(diagnosis.dataset, fix, num_workers=num_workers, listen=console.listen)
        document["fix"] = outcome.describe()
        for line in outcome.write_lines():
            console.show(line)
        console.finish(document, next_command=f"stu doctor {fix.absolute()}")
        return _PROBLEM_EXIT_CODE if outcome.num_problems else 0
    console.finish(document, next_command=next_command)
    return _PROBLEM_EXIT_CODE if diagnosis.num_problems else 0


def _show(console: Console, diagnosis: Diagnosis) -> None:
    from stu_pipeline.doctor.report.summary import write_lines

    # With a dataset, it is the dataset that was asked about; the machine speaks up when something is wrong with it.
    checks = [check for check in diagnosis.machine if diagnosis.dataset is None or check.status != "ok"]
    if checks:
        rows = [[check.status, check.area, check.what, check.hint] for check in checks]
        console.show_table("this machine", ["", "area", "found", "what to do"], rows)
        console.show("")
    if diagnosis.dataset is not None:
        for line in write_lines(diagnosis.dataset, width=_choose_width()):
            console.show(line)
        console.show("")
    console.show(f"{diagnosis.num_problems} problems, {diagnosis.num_warnings} warnings")


def _choose_width() -> int:
    return min(_MAX_WIDTH, shutil.get_terminal_size().columns)
