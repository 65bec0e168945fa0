"""Examine a dataset: every case is read once, everything that is wrong or odd becomes a finding.

Reads: `dataset.json` and every file of the training cases. Writes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stu_pipeline.datasets.cases import Case, list_training_cases
from stu_pipeline.datasets.dataset_json import DatasetJson, parse_dataset_json, read_dataset_json
from stu_pipeline.datasets.forms.decathlon import take_decathlon
from stu_pipeline.datasets.forms.recognise import recognise_form
from stu_pipeline.datasets.inspection import CaseReport, Inspection
from stu_pipeline.doctor.finding import ACTIONS, ActionGroup, Finding, count_findings, group_findings
from stu_pipeline.doctor.hard_problems import sort_problem, sort_warning
from stu_pipeline.doctor.mending.description import mend_description
from stu_pipeline.doctor.screening.duplicates import find_duplicates
from stu_pipeline.doctor.screening.grids import judge_grids
from stu_pipeline.doctor.screening.intensities import judge_intensities
from stu_pipeline.doctor.screening.labels import judge_labels
from stu_pipeline.doctor.screening.observation import observe_case
from stu_pipeline.doctor.screening.suspicions import Correction, judge_alignment
from stu_pipeline.doctor.sound_cases import find_sound_cases
from stu_pipeline.errors import DataError, StuError
from stu_pipeline.log import Listener, Progress, ignore_events
from stu_pipeline.storage import read_json
from stu_pipeline.workers import run_in_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Everything the doctor found out about a dataset."""

    folder: Path
    num_cases: int
    """Cases that were read, damaged ones included."""
    findings: tuple[Finding, ...]
    description: DatasetJson | None = None
    """None when `dataset.json` is of no use."""
    cases: tuple[CaseReport, ...] = ()
    files: dict[str, Case] = field(default_factory=dict)
    corrections: dict[str, Correction] = field(default_factory=dict)
    """What a suspicious label map should look like, by case."""

    @property
    def name(self) -> str:
        """The dataset's folder name."""
        return self.folder.name

    @property
    def groups(self) -> list[ActionGroup]:
        """The findings by what to do."""
        return group_findings(self.findings)

    @property
    def num_problems(self) -> int:
        """Findings that keep the dataset from being used."""
        return count_findings(self.findings, "problem")

    @property
    def num_warnings(self) -> int:
        """Findings that someone should look at."""
        return count_findings(self.findings, "warning")


def examine_dataset(folder: Path, *, num_workers: int = 0, listen: Listener = ignore_events) -> Examination:
    """Find everything that is wrong or odd with a dataset. Nothing is raised for what is found.

    Args:
        folder: the raw folder, with `dataset.json`, `imagesTr`, `labelsTr`.
        num_workers: worker processes; 0 reads in this process.
        listen: receives `Progress`.
    """
    description, findings = _read_description(folder)
    if description is None:
        return Examination(folder=folder, num_cases=0, findings=tuple(findings))
    cases, listing_problems = _list_cases(folder, description)
    findings += [sort_problem(text) for text in listing_problems]
    reports = _read_cases(cases, description, num_workers, listen)
    files = {case.id: case for case in cases}
    findings += [sort_problem(text, report.case_id) for report in reports for text in report.problems]
    findings += [
        sort_warning(text, report.case_id)
        for report in reports
        for text in report.warnings
        if text != "has no foreground"  # said once for all such cases
    ]
    harmless = _list_harmless(folder)
    findings = [_soften(finding) if finding.action in harmless else finding for finding in findings]
    sound = [report for report in reports if report.observation is not None]
    suspicions, corrections = judge_alignment(sound)
    findings += [*suspicions, *_compare_cases(sound, description)]
    return Examination(
        folder=folder,
        num_cases=len(reports),
        findings=tuple(_add_files(finding, files, folder) for finding in findings),
        description=description,
        cases=tuple(reports),
        files=files,
        corrections=corrections,
    )


def _read_description(folder: Path) -> tuple[DatasetJson | None, list[Finding]]:
    """Read `dataset.json`; when it is an old form whose mend is certain, go on with the mended one."""
    try:
        return read_dataset_json(folder), []
    except StuError as error:
        texts, hint = error.details or (str(error),), error.hint
    findings = [
        Finding(action="describe", severity="problem", what=text, files=("dataset.json",), hint=hint) for text in texts
    ]
    path = folder / "dataset.json"
    try:
        mended = mend_description(read_json(path), folder)
        return (parse_dataset_json(mended.content, path) if mended else None), findings
    except StuError:
        return None, findings


def _list_harmless(folder: Path) -> tuple[str, ...]:
    """List the actions that only say that a folder has another form, when `stu plan` takes it as it is."""
    try:
        inventory = take_decathlon(folder) if recognise_form(folder).is_foreign else None
    except StuError:
        return ()
    if inventory is None:
        return ()
    # Channels in one 4D file are split by the import.
    return ("describe", "complete", *(("convert",) if inventory.must_split else ()))


def _soften(finding: Finding) -> Finding:
    hint = "stu plan takes this task as it is; --fix writes it in nnU-Net v2's form"
    return replace(finding, severity="note", hint=hint)


def _list_cases(folder: Path, description: DatasetJson) -> tuple[list[Case], list[str]]:
    try:
        return list_training_cases(folder, description), []
    except DataError as error:
        problems = error.details or (str(error),)
    cases = find_sound_cases(folder, description)
    # An image whose name lacks its channel is said once, not again as a label map without image.
    paired = {f"'labelsTr/{case.label_file.name}' has no image" for case in cases if case.label_file is not None}
    return cases, [text for text in problems if not any(text.endswith(known) for known in paired)]


def _read_cases(
    cases: Sequence[Case], description: DatasetJson, num_workers: int, listen: Listener
) -> list[CaseReport]:
    ignored = description.ignore_label
    stored = description.stored_label_ids[ignored] if ignored is not None else None
    inspect = Inspection(dataset_json=description, observe=functools.partial(observe_case, ignore_label=stored))
    reports: list[CaseReport] = []
    for outcome in run_in_workers(inspect, cases, num_workers=num_workers, name_of=lambda case: case.id):
        if outcome.result is not None:
            # The doctor has its own numbers; those for planning would fill the memory of a large dataset.
            reports.append(replace(outcome.result, statistics=None))
        elif outcome.error is not None:
            reports.append(CaseReport(case_id=outcome.item.id, problems=(outcome.error.problem,)))
        listen(Progress(step="check cases", done=len(reports), total=len(cases)))
    return sorted(reports, key=lambda report: report.case_id)


def _compare_cases(cases: Sequence[CaseReport], description: DatasetJson) -> list[Finding]:
    if not cases:
        return []
    return [
        *judge_intensities(cases, description),
        *judge_grids(cases),
        *find_duplicates(cases),
        *judge_labels(cases, description),
    ]


def _add_files(finding: Finding, files: dict[str, Case], folder: Path) -> Finding:
    about = ACTIONS[finding.action].about
    if finding.files or about == "dataset":
        return finding
    paths: list[Path] = []
    for case_id in finding.cases:
        case = files[case_id]
        if about in ("image", "both"):
            paths += case.image_files
        if about in ("label", "both") and case.label_file is not None:
            paths.append(case.label_file)
    return replace(finding, files=tuple(_name(path, folder) for path in paths))


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
