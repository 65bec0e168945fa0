"""Turn what was measured about label maps against images into findings, with what a picture of them should show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stu_pipeline.datasets.inspection import CaseReport
from stu_pipeline.doctor.finding import Finding, name_some
from stu_pipeline.doctor.screening.mirrored import Mirroring, Shift, find_mirrored, find_shifted
from stu_pipeline.doctor.screening.orientation import AXIS_NAMES

# Beyond this share the "mirrored" cases are a second group (left and right organs), not mistakes.
_MAX_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """How a suspicious label map would look if the suspicion is right, along the patient's axes."""

    flipped_axes: tuple[int, ...] = ()
    shift_axis: int | None = None
    shift_voxels: int = 0

    def describe(self) -> str:
        """Name it, for the caption of a picture."""
        if self.flipped_axes:
            return f"mirrored {' and '.join(AXIS_NAMES[axis] for axis in self.flipped_axes)}"
        return f"moved by {self.shift_voxels} voxels {AXIS_NAMES[self.shift_axis or 0]}"


def judge_alignment(cases: Sequence[CaseReport]) -> tuple[list[Finding], dict[str, Correction]]:
    """Find label maps that look mirrored or moved; the corrections are by case."""
    alignments = [case.observation.alignment for case in cases]
    mirrored, shifted = find_mirrored(alignments), find_shifted(alignments)
    corrections: dict[str, Correction] = {}
    findings: list[Finding] = []
    if len(mirrored) > max(1, _MAX_SHARE * len(cases)):
        ids = tuple(cases[item.index].case_id for item in mirrored)
        what = f"{len(ids)} of {len(cases)} cases lie mirrored to the rest: two groups, such as left and right organs?"
        findings.append(Finding(action="sides", severity="note", what=what, cases=ids))
    else:
        for item in mirrored:
            case_id = cases[item.index].case_id
            corrections[case_id] = Correction(flipped_axes=item.axes)
            findings.append(_tell_mirrored(item, case_id))
    for shift in shifted:
        case_id = cases[shift.index].case_id
        if case_id not in corrections:
            corrections[case_id] = Correction(shift_axis=shift.axis, shift_voxels=shift.voxels)
            findings.append(_tell_shifted(shift, case_id))
    return findings, corrections


def _tell_mirrored(item: Mirroring, case_id: str) -> Finding:
    axes = name_some([AXIS_NAMES[axis] for axis in item.axes])
    if item.fits_image:
        what = f"lies mirrored {axes} to the other cases, and fits its own image (evidence {item.evidence:.0f})"
        return Finding(action="sides", severity="warning", what=what, cases=(case_id,))
    what = (
        f"fits its image better mirrored {axes}: edges {item.edge_ratio:.2f} times as sharp "
        f"(evidence {item.evidence:.0f}, asked for 8)"
    )
    return Finding(action="mirrored", severity="warning", what=what, cases=(case_id,))


def _tell_shifted(item: Shift, case_id: str) -> Finding:
    what = (
        f"fits its image better {abs(item.voxels)} voxels away {AXIS_NAMES[item.axis]}: "
        f"edges {item.gain:.2f} times as sharp"
    )
    return Finding(action="shifted", severity="warning", what=what, cases=(case_id,))
