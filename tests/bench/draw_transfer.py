"""Draw the learning curves of a study, for docs/results/.

    python -m tests.bench.draw_transfer OUT.png STUDY_FOLDER ARM=TITLE ...

Points are seeds, lines go through their means. Prints the same numbers as a table.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73")


def main() -> None:
    """Read the finished cells and draw them."""
    target, study = Path(sys.argv[1]), Path(sys.argv[2])
    titles = dict(word.split("=", 1) for word in sys.argv[3:])
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((study / "cells").glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        _, arm, _, number, _ = path.stem.split(".")
        if record["state"] == "done" and arm in titles:
            found[arm][int(number[1:])].append(record["mean_dice"])
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for colour, (arm, title) in zip(_COLOURS, titles.items(), strict=False):
        numbers = sorted(found[arm])
        axes.plot(numbers, [statistics.mean(found[arm][n]) for n in numbers], color=colour, label=title)
        for number in numbers:
            axes.scatter([number] * len(found[arm][number]), found[arm][number], s=18, color=colour, alpha=0.7)
            values = ", ".join(f"{value:.3f}" for value in found[arm][number])
            print(f"| {title} | {number} | {statistics.mean(found[arm][number]):.3f} | {values} |")
    axes.set_xscale("log")
    numbers = sorted({number for arm in found.values() for number in arm})
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.set_xlabel("training cases")
    axes.set_ylabel("mean Dice")
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
