"""Which cases belong together: by a pattern over the case ids, or by a table.

Reads: a CSV file with the columns `case` and `group`, when one is named.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from stu_pipeline.errors import DataError, UsageError

_COLUMNS = ("case", "group")
_MAX_NAMED = 8


def read_groups(group_by: str, case_ids: Sequence[str]) -> dict[str, str]:
    r"""Return the group (the patient) of every case, in the order of the cases.

    Args:
        group_by: a path that ends in `.csv`, or a regular expression that is searched in every case id; its first
            capture group names the group, or the whole match when it has none.
        case_ids: the cases of the dataset.

    Raises:
        UsageError: the pattern is not one, or does not fit some cases; the file is missing.
        DataError: the table has no header, names unknown cases, misses cases, or names one twice.

    >>> read_groups(r"^(\w+)_\d$", ["anna_1", "anna_2", "ben_1"])
    {'anna_1': 'anna', 'anna_2': 'anna', 'ben_1': 'ben'}
    """
    if group_by.lower().endswith(".csv"):
        return _read_table(Path(group_by), case_ids)
    return _match_ids(group_by, case_ids)


def _match_ids(pattern: str, case_ids: Sequence[str]) -> dict[str, str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--group-by '{pattern}' is not a regular expression: {error}",
            hint="--group-by '^([^_]+)' groups by what comes before the first '_'; a table's name ends in .csv",
        ) from error
    number = 1 if expression.groups else 0
    matches = {case: expression.search(case) for case in case_ids}
    groups = {case: match.group(number) for case, match in matches.items() if match and match.group(number)}
    missing = [case for case in case_ids if case not in groups]
    if missing:
        raise UsageError(
            f"--group-by '{pattern}' finds no group in {len(missing)} of {len(case_ids)} cases: {_name(missing)}",
            hint="widen the pattern, or give a CSV file with the columns case,group",
            details=tuple(missing) if len(missing) > _MAX_NAMED else (),
        )
    return groups


def _read_table(path: Path, case_ids: Sequence[str]) -> dict[str, str]:
    if not path.is_file():
        raise UsageError(f"--group-by '{path.name}' not found", where=path.parent)
    known, groups, problems = set(case_ids), dict[str, str](), list[str]()
    for line, case, group in _read_rows(path):
        if not case or not group:
            problems.append(f"line {line} has no {'group' if case else 'case'}")
        elif case in groups:
            problems.append(f"line {line} names case '{case}' again")
        elif case not in known:
            problems.append(f"line {line} names case '{case}', which the dataset does not have")
        else:
            groups[case] = group
    missing = [case for case in case_ids if case not in groups]
    if missing:
        problems.append(f"{len(missing)} of {len(case_ids)} cases are not in the table: {_name(missing)}")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(
            f"'{path.name}': {problems[0]}{more}",
            where=path,
            hint="give every case of the dataset one line with its id and its group",
            details=tuple(problems) if len(problems) > 1 else (),
        )
    return {case: groups[case] for case in case_ids}


def _read_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, case and group of every row that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if any(header.count(name) != 1 for name in _COLUMNS):
                found = ",".join(header) or "nothing"
                raise DataError(f"'{path.name}' needs the columns case,group, its first line has {found}", where=path)
            columns = [header.index(name) for name in _COLUMNS]
            for row in reader:
                if any(cell.strip() for cell in row):
                    case, group = (row[index].strip() if index < len(row) else "" for index in columns)
                    yield reader.line_num, case, group
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path.name}' cannot be read as CSV: {error}", where=path) from error


def _name(cases: Sequence[str]) -> str:
    return ", ".join(cases[:_MAX_NAMED]) + (", ..." if len(cases) > _MAX_NAMED else "")
