"""Write an examination as one HTML page that needs nothing else: no network, no scripts, pictures inside.

Reads: the cases it draws. Writes: the page.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path

from stu_pipeline.doctor.examine import Examination
from stu_pipeline.doctor.finding import ActionGroup, Finding, name_some
from stu_pipeline.doctor.report.charts import draw_intensity_boxes, draw_label_bars
from stu_pipeline.doctor.report.pictures import Picture, PictureRequest, draw_pictures
from stu_pipeline.doctor.report.summary import describe_labels, say_size
from stu_pipeline.errors import UsageError
from stu_pipeline.log import Listener, ignore_events
from stu_pipeline.storage import write_text

# Findings whose cases are worth a picture. A damaged file has none to show.
_DRAWN = ("mirrored", "sides", "shifted", "intensities", "grid", "duplicates", "empty", "components")
_MAX_PICTURES = 48
_MAX_PER_ACTION = 8
_MAX_CASES_NAMED = 40
_MAX_FILES_NAMED = 12
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--soft:#f3f4f6;--line:#d5d9de;--bar:#3b6ea8;--mark:#c2410c}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--paper:#15181c;--soft:#20252b;--line:#3a4048;--bar:#6ea8e0;
--mark:#fb923c}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1000px;margin:2em auto;
padding:0 1em}
h1,h2{line-height:1.2}h2{margin-top:2em}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3em .7em .3em 0;border-bottom:1px solid var(--line);
overflow-wrap:anywhere}
.tag{font-size:.75em;padding:.1em .5em;border-radius:.3em;color:#fff;vertical-align:middle}
.problem{background:#b91c1c}.warning{background:#b45309}.note{background:#4b5563}
.hint{opacity:.8}.scroll{overflow-x:auto}figure{display:inline-block;margin:.6em 1em .6em 0;max-width:100%}
figcaption{font-size:.85em}img{display:block;max-width:100%;background:#000}
svg text{font-size:12px;fill:var(--ink)}svg .bar{fill:var(--bar)}
svg g line{stroke:var(--bar)}svg g rect{fill:var(--bar)}svg g.marked line{stroke:var(--mark)}
svg g.marked rect{fill:var(--mark)}summary{cursor:pointer}
"""


def require_page(path: Path | None, dataset: str | None) -> None:
    """Refuse a page that could not be written.

    Raises:
        UsageError: there is no dataset to write about, or the path is a folder.
    """
    if path is None:
        return
    if dataset is None:
        raise UsageError("--html shows a dataset, and none was given", hint=f"stu doctor DATASET --html {path}")
    if path.is_dir():
        raise UsageError(f"'{path.name}' is a folder, expected a file", where=path.parent, hint="--html doctor.html")


def write_page(examination: Examination, path: Path, *, num_workers: int = 0, listen: Listener = ignore_events) -> None:
    """Write the page. Suspicious cases are read again, to be drawn.

    Raises:
        StorageError: the page cannot be written.
    """
    pictures = draw_pictures(_choose_pictures(examination), num_workers=num_workers, listen=listen)
    write_text(path, make_page(examination, {picture.case_id: picture for picture in pictures}))


def make_page(examination: Examination, pictures: dict[str, Picture]) -> str:
    """Return the page as text."""
    title = f"stu doctor: {_escape(examination.name)}"
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{_escape(say_size(examination))}.</p>",
        f"<p><b>{examination.num_problems} problems, {examination.num_warnings} warnings.</b></p>",
        _list_actions(examination),
        *[_write_group(group, examination, pictures) for group in examination.groups],
        _write_labels(examination),
        _write_intensities(examination),
        _write_cases(examination),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(part for part in parts if part) + "\n</body></html>\n"
    )


def _choose_pictures(examination: Examination) -> list[PictureRequest]:
    chosen: dict[str, PictureRequest] = {}
    for group in examination.groups:
        if group.key in _DRAWN:
            for case_id in group.cases[:_MAX_PER_ACTION]:
                if case_id in examination.files:
                    case = examination.files[case_id]
                    request = PictureRequest(case=case, correction=examination.corrections.get(case_id))
                    chosen.setdefault(case_id, request)
    return list(chosen.values())[:_MAX_PICTURES]


def _list_actions(examination: Examination) -> str:
    if not examination.findings:
        return "<p>Nothing found that is wrong or odd.</p>"
    rows = "".join(
        f'<tr><td>{_tag(group.severity)}</td><td><a href="#{group.key}">{_escape(group.title)}</a></td>'
        f"<td>{len(group.findings)}</td><td>{len(group.cases)}</td></tr>"
        for group in examination.groups
    )
    return f"<table><tr><th></th><th>what to do</th><th>findings</th><th>cases</th></tr>{rows}</table>"


def _write_group(group: ActionGroup, examination: Examination, pictures: dict[str, Picture]) -> str:
    rows = "".join(_write_finding(finding) for finding in group.findings)
    drawn = group.cases[:_MAX_PER_ACTION] if group.key in _DRAWN else ()
    figures = "".join(_write_figure(pictures[case_id]) for case_id in drawn if case_id in pictures)
    hint = f'<p class="hint">{_escape(group.hint)}</p>' if group.hint else ""
    return (
        f'<h2 id="{group.key}">{_tag(group.severity)} {_escape(group.title)}</h2>{hint}'
        f"<table><tr><th></th><th>cases</th><th>found</th><th>files</th></tr>{rows}</table>{figures}"
    )


def _write_finding(finding: Finding) -> str:
    hint = f'<div class="hint">{_escape(finding.hint)}</div>' if finding.hint else ""
    return (
        f"<tr><td>{_tag(finding.severity)}</td><td>{_escape(name_some(finding.cases, _MAX_CASES_NAMED))}</td>"
        f"<td>{_escape(finding.what)}{hint}</td><td>{_escape(name_some(finding.files, _MAX_FILES_NAMED))}</td></tr>"
    )


def _write_figure(picture: Picture) -> str:
    name = _escape(picture.case_id)
    figure = f'<figure><img alt="{name}" src="{_embed(picture.png)}"><figcaption>{name}, as it is</figcaption></figure>'
    if picture.corrected:
        figure += (
            f'<figure><img alt="{name} corrected" src="{_embed(picture.corrected)}">'
            f"<figcaption>{name}, label {_escape(picture.caption)}</figcaption></figure>"
        )
    return f"<div>{figure}</div>"


def _write_labels(examination: Examination) -> str:
    labels = describe_labels(examination)
    if not labels:
        return ""
    return "<h2>Labels</h2><p>Share of all foreground voxels, logarithmic.</p>" + draw_label_bars(
        labels, examination.num_cases
    )


def _write_intensities(examination: Examination) -> str:
    if examination.description is None:
        return ""
    marked = {case for group in examination.groups if group.key == "intensities" for case in group.cases}
    charts = [
        f"<p>Channel {channel}, {_escape(name)}</p>{chart}"
        for channel, name in examination.description.channel_names.items()
        if (chart := draw_intensity_boxes(examination.cases, channel, marked))
    ]
    if not charts:
        return ""
    return "<h2>Intensities</h2><p>1 to 99 % (line), 25 to 75 % (box) and median of every case.</p>" + "".join(charts)


def _write_cases(examination: Examination) -> str:
    if not examination.cases:
        return ""
    rows = "".join(
        f"<tr><td>{_escape(case.case_id)}</td><td>{'x'.join(map(str, case.shape or ()))}</td>"
        f"<td>{', '.join(f'{step:.4g}' for step in case.spacing_mm or ())}</td>"
        f"<td>{case.observation.orientation if case.observation else 'not usable'}</td>"
        f"<td>{len(case.labels)}</td></tr>"
        for case in examination.cases
    )
    return (
        "<h2>Cases</h2><details><summary>all cases</summary><table><tr><th>case</th><th>voxels (z, y, x)</th>"
        f"<th>spacing in mm</th><th>stored as</th><th>labels</th></tr>{rows}</table></details>"
    )


def _tag(severity: str) -> str:
    return f'<span class="tag {severity}">{severity}</span>'


def _embed(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _escape(text: str) -> str:
    return html.escape("".join(char if char.isprintable() else repr(char)[1:-1] for char in text))
