"""Draw the learning curves of several runs into one picture, for docs/results/.

    python -m tests.bench.draw_learning_curves OUT.png NAME=FOLD_FOLDER [NAME=FOLD_FOLDER ...]

A fold folder is one of ours (`metrics.jsonl`) or of stock nnU-Net (the log inside its final checkpoint).
The x axis counts the samples seen, the only thing the runs have in common.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stu_pipeline.nnunet.checkpoint import read_checkpoint


def main() -> None:
    """Draw what the command line names."""
    target, runs = Path(sys.argv[1]), [argument.split("=", 1) for argument in sys.argv[2:]]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    for index, (name, folder) in enumerate(runs):
        seen, train, val, dice = read_curves(Path(folder))
        color = f"C{index}"
        losses.plot(seen, train, color=color, label=f"{name}, training")
        losses.plot(seen, val, color=color, linestyle="--", label=f"{name}, validation")
        scores.plot(seen, dice, color=color, marker=".", label=name)
    losses.set(xlabel="samples seen", ylabel="loss (Dice + cross-entropy)")
    scores.set(xlabel="samples seen", ylabel="pseudo Dice of random validation patches", ylim=(0, 1))
    for axis in (losses, scores):
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(target, dpi=110)


def read_curves(folder: Path) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return samples seen, training loss, validation loss and mean pseudo Dice per epoch."""
    checkpoint = read_checkpoint(folder / "checkpoint_final.pth")
    log, arguments = checkpoint["logging"], checkpoint["init_args"]
    plan = arguments["plans"]["configurations"][arguments["configuration"]]
    settings = checkpoint.get("stu", {}).get("settings", {})
    steps = settings.get("num_iterations") or int((folder / "iterations.txt").read_text(encoding="utf-8"))
    num_epochs = len(log["train_losses"])
    seen = [(epoch + 1) * steps * plan["batch_size"] for epoch in range(num_epochs)]
    return seen, log["train_losses"], log["val_losses"], log["mean_fg_dice"]


if __name__ == "__main__":
    main()
