"""Predict four cases and draw what the report says about them, for docs/results/.

    python -m tests.bench.draw_predictions OUT.png MODEL_FOLDER DATASET_FOLDER CASE CASE WORK_FOLDER [FLAG ...]

Both cases are predicted as they are, and the first one again with noise, and again with its front half cut away.
MODEL_FOLDER must have been calibrated; FLAG is handed to `stu predict`, for example `--folds 0`. References are drawn
and scored for the reader of the picture only: `stu predict` sees the images.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_NOISE = 0.6
_COLOURS = ("#e69f00", "#56b4e9")
_REFERENCE = "white"
_WINDOW = (1.0, 99.0)

Voxels = npt.NDArray[Any]


def main() -> None:
    """Predict and draw what the command line names."""
    target, model, dataset, first, second, work = sys.argv[1:7]
    cases = make_cases(Path(dataset), (first, second), Path(work))
    command = [sys.executable, "-m", "stu_pipeline", "predict", "-i", f"{work}/images", "-o", f"{work}/masks"]
    subprocess.run([*command, "-m", model, *sys.argv[7:]], check=True)
    report = json.loads(Path(work, "masks", "predictions.json").read_text(encoding="utf-8"))["cases"]
    draw(Path(target), cases, report, Path(work))


def make_cases(dataset: Path, names: tuple[str, str], work: Path) -> dict[str, str]:
    """Write the four images and their references; return what was done to each, by name."""
    for folder in ("images", "labels"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    made = {}
    for name in names:
        image = SimpleITK.ReadImage(str(dataset / "imagesTr" / f"{name}_0000.nii.gz"), SimpleITK.sitkFloat32)
        label = SimpleITK.ReadImage(str(dataset / "labelsTr" / f"{name}.nii.gz"))
        made[name] = "unchanged"
        _write(work, name, image, label)
        if name == names[0]:
            voxels = SimpleITK.GetArrayFromImage(image)
            noise = np.random.default_rng(0).normal(0, _NOISE * voxels.std(), voxels.shape)
            noisy = SimpleITK.GetImageFromArray((voxels + noise).astype(np.float32))
            noisy.CopyInformation(image)
            made[f"{name}_noise"] = "noise added"
            _write(work, f"{name}_noise", noisy, label)
            # Through the middle of the labels, along the file's second axis.
            middle = int(np.median(np.nonzero(SimpleITK.GetArrayFromImage(label))[1]))
            made[f"{name}_cut"] = "front half cut away"
            _write(work, f"{name}_cut", image[:, :middle, :], label[:, :middle, :])
    return made


def draw(target: Path, cases: dict[str, str], report: dict[str, Any], work: Path) -> None:
    """Draw one panel per case, those to look at first on the left."""
    ranked = sorted(cases, key=lambda case: (not _list_remarks(report[case]), -_read_priority(report[case]), case))
    figure = Figure(figsize=(12, 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, case in zip(figure.subplots(1, len(ranked)), ranked, strict=True):
        image, mask, label = (_read(work, folder, case) for folder in ("images", "masks", "labels"))
        spacing = SimpleITK.ReadImage(str(work / "masks" / f"{case}.nii.gz")).GetSpacing()
        # Sagittal, where both labels are large: rows are z and grow upwards, columns the file's second axis.
        index = int(np.argmax((label > 0).sum(axis=(0, 1))))
        low, high = np.percentile(image, _WINDOW)
        aspect = spacing[2] / spacing[1]
        panel.imshow(image[:, :, index], cmap="gray", vmin=low, vmax=high, aspect=aspect, origin="lower")
        for value, colour in enumerate(_COLOURS, start=1):
            for array, shade, width in ((label, _REFERENCE, 0.9), (mask, colour, 1.8)):
                if (array[:, :, index] == value).any():
                    panel.contour(array[:, :, index] == value, levels=[0.5], colors=shade, linewidths=width)
        panel.set_title(f"{case}\n({cases[case]})", fontsize=10)
        panel.set(xticks=[], yticks=[], anchor="N")
        panel.set_xlabel(_describe(report[case], mask, label), fontsize=8.5, loc="left")
    names = [item["name"] for item in next(iter(report.values()))["quality"]["labels"]]
    shown = ", ".join(f"{name}: {colour}" for name, colour in zip(names, ("orange", "blue"), strict=True))
    figure.suptitle(f"Look at these first, from left to right.  Masks: {shown}; reference: white", fontsize=11)
    figure.savefig(target, dpi=100)


def _describe(entry: dict[str, Any], mask: Voxels, label: Voxels) -> str:
    lines = []
    for value, item in enumerate(entry["quality"]["labels"], start=1):
        expected = "-" if item["expected_dice"] is None else f"{item['expected_dice']:.2f}"
        found, known = mask == value, label == value
        dice = 2 * (found & known).sum() / max(1, found.sum() + known.sum())
        lines.append(f"{item['name']}: expected {expected}, true {dice:.2f}")
    lines += [f"! {remark}" for remark in _list_remarks(entry)] or ["no remarks"]
    lines.append(f"accepted: {'yes' if entry['quality']['is_accepted'] else 'no'}")
    return "\n".join(_wrap(line) for line in lines)


def _wrap(line: str, width: int = 44) -> str:
    words, rows = line.split(), [""]
    for word in words:
        if len(rows[-1]) + len(word) > width:
            rows.append("   ")
        rows[-1] += f" {word}" if rows[-1].strip() else f"{rows[-1]}{word}"
    return "\n".join(rows)


def _list_remarks(entry: dict[str, Any]) -> list[str]:
    return [*entry["warnings"], *entry["quality"]["reasons"]]


def _read_priority(entry: dict[str, Any]) -> float:
    return float(entry["quality"]["priority"])


def _read(work: Path, folder: str, case: str) -> Voxels:
    voxels: Voxels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(work / folder / f"{case}.nii.gz")))
    return voxels


def _write(work: Path, name: str, image: SimpleITK.Image, label: SimpleITK.Image) -> None:
    SimpleITK.WriteImage(image, str(work / "images" / f"{name}.nii.gz"))
    SimpleITK.WriteImage(label, str(work / "labels" / f"{name}.nii.gz"))


if __name__ == "__main__":
    main()
