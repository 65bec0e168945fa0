"""The datasets of a manifest: found, with their cases, labels and what groups them.

Reads: `dataset.json` and the names of the files of each dataset.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import DatasetJson, read_dataset_json
from stu_pipeline.errors import StuError
from stu_pipeline.study.fields import Fields
from stu_pipeline.study.manifest import SIZE_BINS, TARGETS, StudyDataset
from stu_pipeline.workspace import find_dataset

# SegBook's cut-offs, as its repository's table of 87 datasets gives them.
MAX_SMALL = 120
MAX_MEDIUM = 303


def parse_datasets(
    tables: list[Fields], beside: Path, data_problems: list[str], problems: list[str]
) -> list[StudyDataset]:
    """Read every dataset that can be read.

    Args:
        tables: one per dataset.
        beside: folder of the manifest; relative paths start there.
        data_problems: what cannot be found or read; grows.
        problems: what the manifest says wrong; grows.
    """
    found = [dataset for table in tables if (dataset := _parse_dataset(table, beside, data_problems)) is not None]
    names = [dataset.name for dataset in found]
    problems += [f"dataset '{name}' is listed twice" for name in sorted({n for n in names if names.count(n) > 1})]
    return found


def choose_size_bin(num_cases: int) -> str:
    """Choose SegBook's bin by the number of training cases: S up to 120, M up to 303, L above."""
    return "S" if num_cases <= MAX_SMALL else "M" if num_cases <= MAX_MEDIUM else "L"


def _parse_dataset(table: Fields, beside: Path, data_problems: list[str]) -> StudyDataset | None:
    wanted = table.text("dataset", is_required=True)
    modality = table.text("modality")
    region = table.text("region")
    target = table.text("target", choices=TARGETS, default="structure")
    size = table.text("size", choices=SIZE_BINS)
    source, licence = table.text("source"), table.text("licence")
    splits = table.text("splits")
    group_by = table.text("group_by") or None
    seen, unseen = table.texts("seen"), table.texts("unseen")
    targets = table.table("targets")
    own_targets = {key: targets.text(key, choices=TARGETS) for key in list(targets.raw())}
    table.close()
    content = _open_dataset(wanted, beside, data_problems) if wanted else None
    if content is None:
        return None
    raw, case_ids, label_names = content
    for key, names in (("seen", seen), ("unseen", unseen), ("targets", tuple(own_targets))):
        for name in sorted(set(names) - set(label_names)):
            table.complain(key, f"names '{name}', which '{raw.name}' does not have: {', '.join(label_names)}")
    for name in sorted(set(seen) & set(unseen)):
        table.complain("seen", f"and 'unseen' both name '{name}'")
    return StudyDataset(
        name=raw.name,
        raw=raw,
        case_ids=case_ids,
        label_names=label_names,
        modality=modality,
        region=region,
        size=size or choose_size_bin(len(case_ids)),
        targets={name: own_targets.get(name) or target for name in label_names},
        seen={**dict.fromkeys(seen, True), **dict.fromkeys(unseen, False)},
        source=source,
        licence=licence,
        splits=(beside / splits).absolute() if splits else None,
        group_by=group_by,
    )


def _open_dataset(
    wanted: str, beside: Path, data_problems: list[str]
) -> tuple[Path, tuple[str, ...], tuple[str, ...]] | None:
    if os.sep in wanted:
        wanted = os.fspath((beside / Path(wanted).expanduser()).absolute())
    try:
        paths = find_dataset(wanted)
        content = read_dataset_json(paths.dataset_json)
        case_ids = tuple(case.id for case in list_training_cases(paths.raw, content))
    except StuError as error:
        data_problems.append(f"dataset '{wanted}': {error}")
        return None
    return paths.raw, case_ids, list_label_names(content)


def list_label_names(content: DatasetJson) -> tuple[str, ...]:
    """List the foreground labels or regions of a dataset in its order, without the ignored one."""
    labels: dict[str, Any] = content.engine_description["labels"]
    return tuple(name for name in labels if name not in ("background", "ignore"))
