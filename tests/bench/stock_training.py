"""Train stock nnU-Net for a short schedule, to stand beside a run of ours with as many samples seen.

    python -m tests.bench.stock_training Dataset004_Hippocampus --fold 0 --epochs 25 --iterations 20

Stock's epoch count cannot be set from its command line, so its trainer is driven in-process: the plain
`nnUNetTrainer`, its default plan, its own loader, precision and final validation; nothing is replaced.
The dataset has to be planned and preprocessed (`stu plan` shares the preprocessed data with stock).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path


def main() -> None:
    """Train, validate and print one JSON line with the mean Dice and the time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("nnUNet_n_proc_DA", "1")
    os.environ.setdefault("nnUNet_def_n_proc", "2")
    _train(arguments)


def _train(arguments: argparse.Namespace) -> None:
    import torch

    from stu_pipeline.nnunet.environment import engine_environment
    from stu_pipeline.nnunet.planner import draft_plan
    from stu_pipeline.storage import read_json
    from stu_pipeline.workspace import find_dataset

    dataset = find_dataset(arguments.dataset)
    dataset_json = read_json(dataset.preprocessed / "dataset.json")
    num_cases = len(list((dataset.preprocessed / "gt_segmentations").iterdir()))
    reader = next(
        read_json(path)["image_reader_writer"] for path in sorted(dataset.preprocessed.glob("stu*Plans.json"))
    )
    fingerprint = read_json(dataset.fingerprint)
    plan = draft_plan(dataset.name, dataset_json, fingerprint, num_cases=num_cases, reader_name=reader)
    with engine_environment(dataset.workspace):
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        torch.manual_seed(arguments.seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        trainer = nnUNetTrainer(
            {**plan, "continue_training": False}, arguments.configuration, arguments.fold, dataset_json, device
        )
        trainer.num_epochs = arguments.epochs
        trainer.num_iterations_per_epoch = arguments.iterations
        trainer.num_val_iterations_per_epoch = max(1, arguments.iterations // 5)
        start = time.monotonic()
        trainer.run_training()
        trained_s = time.monotonic() - start
        trainer.perform_actual_validation()
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text(encoding="utf-8"))
    result = {
        "dataset": dataset.name,
        "fold": arguments.fold,
        "samples_seen": arguments.epochs * arguments.iterations * trainer.batch_size,
        "trained_s": round(trained_s, 1),
        "mean_dice": summary["foreground_mean"]["Dice"],
        "dice": {label: scores["Dice"] for label, scores in summary["mean"].items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
