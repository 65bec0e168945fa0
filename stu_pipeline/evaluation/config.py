"""What `evaluate()` takes and what it returns. Light: the command line imports it for its defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """One evaluation of predicted label maps against reference label maps."""

    reference: Path
    """Folder of reference label maps, or one file."""
    prediction: Path
    """Folder of predicted label maps, or one file. Cases are matched by name; endings may differ."""
    output: Path | None = None
    """`summary.json` or a folder for it. None: into the prediction folder; for one file nothing is written."""
    report: Path | None = None
    """Folder for `scores.csv`, `summary.md` and `report.html`. None: they are not written."""
    images: Path | None = None
    """Folder of the images (or the image of a single case), shown behind the masks in the report."""
    dataset_json: Path | None = None
    """Names the labels of the references. None: found beside them, else what names the predicted labels, else the
    values found are the labels."""
    prediction_labels: Path | None = None
    """The `dataset.json` that names the predicted labels. None: found beside the predictions, where `stu predict`
    leaves one, else they are the reference's."""
    mapping: Path | None = None
    """A label mapping: which predicted labels are which labels of the reference, where names do not say it."""
    tolerance_mm: float = 1.0
    """Distance within which a surface counts as met (NSD)."""
    surface: bool = True
    """Whether to measure HD95, ASSD and NSD as well."""
    lesions: bool = False
    """Whether to count lesions (connected parts of a label) found, missed and invented."""
    lesion_iou: float = 0.0
    """A lesion counts as found above this IoU with a predicted one; 0: when they share a voxel."""
    lesion_size_mm3: float = 0.0
    """Smaller parts are no lesions, in reference and prediction alike."""
    allow_missing: bool = False
    """Score what is there when a reference has no prediction. Such cases are listed and in no mean."""
    num_workers: int | None = 1
    """Processes that score cases; a few cases are scored in this one. None: what the cores allow. A script that
    asks for more than one needs the guard `if __name__ == "__main__":`, as all of multiprocessing."""
    seed: int = 0
    """Seed of the bootstrap behind the confidence intervals."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not (math.isfinite(self.tolerance_mm) and self.tolerance_mm >= 0):
            raise UsageError(f"tolerance must be a distance of at least 0 mm, got '{self.tolerance_mm}'")
        if self.images is not None and self.report is None:
            raise UsageError("images are shown in the report only, and none was asked for", hint="add --report FOLDER")
        if not 0 <= self.lesion_iou < 1:
            raise UsageError(f"the IoU of a found lesion must be at least 0 and below 1, got '{self.lesion_iou}'")
        if not (math.isfinite(self.lesion_size_mm3) and self.lesion_size_mm3 >= 0):
            raise UsageError(f"the size of a lesion must be at least 0 mm3, got '{self.lesion_size_mm3}'")
        if self.num_workers is not None and self.num_workers < 0:
            raise UsageError(f"num_workers must be at least 0, got '{self.num_workers}'")
        if self.seed < 0:
            raise UsageError(f"seed must be at least 0, got '{self.seed}'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How one metric spreads over the cases. Every number is None when no case has a finite value."""

    mean: float | None
    ci_low: float | None
    """Lower end of the 95 % confidence interval of the mean; None below two cases."""
    ci_high: float | None
    median: float | None
    quartile_low: float | None
    quartile_high: float | None
    num_values: int
    """Cases behind the numbers above."""
    num_infinite: int = 0
    """Cases left out because exactly one of reference and prediction is empty (HD95, ASSD)."""
    num_missing: int = 0
    """Cases left out because both are empty: there is nothing to measure."""
    median_ci_low: float | None = None
    """Lower end of the 95 % confidence interval of the median; None below six cases."""
    median_ci_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelResult:
    """The scores of one label over all cases."""

    key: str
    name: str
    dice: Spread
    iou: Spread
    nsd: Spread | None = None
    hd95_mm: Spread | None = None
    assd_mm: Spread | None = None
    volume_error_ml: Spread | None = None
    """Predicted minus reference volume; positive where too much is predicted."""
    volume_error_relative: Spread | None = None
    """Volume error as a share of the reference volume; infinite where the reference is empty."""
    lesion_f1: Spread | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One case in short: its mean Dice over the labels that occur in it, and its worst label."""

    case: str
    mean_dice: float | None
    worst_label: str | None
    worst_dice: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedLabel:
    """One scored label, and the labels of either side that were taken together for it."""

    name: str
    prediction: tuple[str, ...]
    reference: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMatching:
    """Which labels were compared, where reference and prediction have label lists of their own."""

    source: str
    """The mapping file, or 'names' where labels were matched by their names."""
    labels: tuple[MatchedLabel, ...]
    reference_left_out: tuple[str, ...]
    """Labels of the reference that are not scored."""
    prediction_left_out: tuple[str, ...]
    """Predicted labels that are not scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """What an evaluation found."""

    summary_path: Path | None
    num_cases: int
    """How many cases were scored."""
    mean_dice: float | None
    """Mean over labels of the mean over cases, as nnU-Net's `foreground_mean`; labels that never occur are left out."""
    mean_dice_ci: tuple[float, float] | None
    """95 % confidence interval of `mean_dice`; None below two cases."""
    labels: tuple[LabelResult, ...]
    cases: tuple[CaseResult, ...]
    """Worst mean Dice first."""
    missing: tuple[str, ...] = ()
    """References without a prediction."""
    extra: tuple[str, ...] = ()
    """Predictions without a reference; they are not scored."""
    report_files: tuple[Path, ...] = ()
    """What was written into the report folder."""
    labels_from: str = ""
    """Where the labels came from: a `dataset.json`, or `values found`."""
    matching: LabelMatching | None = None
    """None where both sides have the same labels."""
    warnings: tuple[str, ...] = ()
    """What may be wrong with the predictions as a whole: voxel sizes far from those the model computes at, left and
    right exchanged."""
