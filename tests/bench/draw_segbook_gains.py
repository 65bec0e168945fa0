"""Draw what fine-tuning brought in SegBook, for docs/results/. The numbers are published ones: plans/published/.

python -m tests.bench.draw_segbook_gains OUT.png
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

REPOSITORY = Path(__file__).resolve().parents[2]
_COLOURS = {"CT": "#0072b2", "MRI": "#e69f00", "CT and PET": "#009e73", "US": "#999999"}


def main() -> None:
    """Draw the gain of every dataset against its training cases, one panel per scale, and print the medians."""
    content = json.loads((REPOSITORY / "plans" / "published" / "segbook.json").read_text(encoding="utf-8"))
    columns = {name: place for place, name in enumerate(content["columns"])}
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, scale in zip(figure.subplots(1, 3, sharey=True), "BLH", strict=True):
        gains = [row[columns[f"fine-tuned {scale}"]] - row[columns[f"scratch {scale}"]] for row in content["rows"]]
        gains = [round(gain, 1) for gain in gains]
        for images, colour in _COLOURS.items():
            chosen = [place for place, row in enumerate(content["rows"]) if row[columns["images"]] == images]
            cases = [content["rows"][place][columns["training cases"]] for place in chosen]
            panel.scatter(cases, [gains[place] for place in chosen], s=16, color=colour, label=images, alpha=0.85)
        panel.axhline(0, color="black", linewidth=0.8)
        panel.set_xscale("log")
        panel.set_yscale("symlog", linthresh=2)
        panel.set_yticks([-10, -2, -1, 0, 1, 2, 10, 30], ["-10", "-2", "-1", "0", "1", "2", "10", "30"])
        better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        panel.set_title(f"scale {scale}: {better} better, {worse} worse of {len(gains)}", fontsize=10)
        panel.set_xlabel("training cases")
        print(scale, f"median {statistics.median(gains):.1f}, mean {statistics.mean(gains):.1f}")
        if scale == "B":
            panel.set_ylabel("Dice x 100, fine-tuned minus scratch")
            panel.legend(fontsize=8, loc="lower right")
    figure.savefig(Path(sys.argv[1]), dpi=110)


if __name__ == "__main__":
    main()
