"""What careless loading costs: a trained model as it is, with moved strides, and with a stem repeated for two channels.

    python -m tests.bench.transfer_ablation --model FOLDER --images imagesTr --labels labelsTr --cases 20

All variants load without a complaint, because every shape fits. The cases are those that fold 0 of the model validated.
The two channels are the same image twice, so the right answer is that of one channel. Prints a table.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stu_pipeline import EvaluateConfig, PredictConfig, evaluate, predict
from stu_pipeline.nnunet.checkpoint import read_checkpoint, write_checkpoint
from stu_pipeline.storage import read_json, write_json
from stu_pipeline.transfer.files.reading import read_weight_file
from stu_pipeline.transfer.loading.adapt import TargetNetwork, adapt_weights

_STEM = ("conv_blocks_context.0.0.conv1.weight", "conv_blocks_context.0.0.conv3.weight")
Change = Callable[[dict[str, Any], dict[str, Any], dict[str, torch.Tensor]], None]


def main() -> None:
    """Predict and score each variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder with one image channel")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=20)
    given = parser.parse_args()
    checkpoint = given.model / "fold_0" / "checkpoint_final.pth"
    variants: list[tuple[str, int, Change]] = [
        ("as trained", 1, _keep),
        ("one stride moved a stage deeper", 1, _move_stride),
        ("two equal channels, stem shared out (ours)", 2, lambda p, d, w: _adapt_stem(p, d, w, checkpoint)),
        ("two equal channels, stem repeated", 2, _repeat_stem),
        ("two equal channels, only conv1 halved", 2, _halve_first_kernel),
    ]
    print("| variant | mean Dice | per label |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        cases = _list_validated(given.model)[: given.cases]
        for place, (name, num_channels, change) in enumerate(variants):
            folder = Path(scratch) / str(place)
            images = _link_images(given.images, cases, folder / "images", num_channels=num_channels)
            labels = _copy_labels(given.labels, cases, folder / "labels")
            model = _write_variant(given.model, folder / given.model.name, change)
            predict(PredictConfig(input=images, output=folder / "masks", models=(model,), folds=(0,), precision="fp32"))
            found = evaluate(EvaluateConfig(reference=labels, prediction=folder / "masks", surface=False))
            per_label = ", ".join(f"{label.name} {label.dice.mean or 0:.3f}" for label in found.labels)
            print(f"| {name} | {found.mean_dice or 0:.3f} | {per_label} |", flush=True)


def _keep(plan: dict[str, Any], dataset: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Change nothing."""


def _move_stride(plan: dict[str, Any], dataset: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    for configuration in plan["configurations"].values():
        strides = configuration.get("architecture", {}).get("arch_kwargs", {}).get("strides")
        if strides:
            last = max(stage for stage, stride in enumerate(strides) if any(step > 1 for step in stride))
            if last + 1 < len(strides):
                strides[last], strides[last + 1] = strides[last + 1], strides[last]


def _adapt_stem(
    plan: dict[str, Any], dataset: dict[str, Any], weights: dict[str, torch.Tensor], checkpoint: Path
) -> None:
    _repeat_stem(plan, dataset, weights)
    source = read_weight_file(checkpoint)
    names = source.facts.label_names or ()
    target = TargetNetwork(tensors=dict(weights), label_names=names, channel_names=("first", "second"))
    weights.update(adapt_weights(source, target).tensors)


def _repeat_stem(plan: dict[str, Any], dataset: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    name = next(iter(dataset["channel_names"].values()))
    dataset["channel_names"] = {"0": name, "1": name}
    for configuration in plan["configurations"].values():
        for key in ("normalization_schemes", "use_mask_for_norm"):
            if key in configuration:
                configuration[key] = configuration[key] * 2
    for key in _STEM:
        weights[key] = weights[key].repeat(1, 2, *[1] * (weights[key].ndim - 2))


def _halve_first_kernel(plan: dict[str, Any], dataset: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    _repeat_stem(plan, dataset, weights)
    weights[_STEM[0]] = weights[_STEM[0]] / 2


def _list_validated(model: Path) -> list[str]:
    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text(encoding="utf-8"))
    return sorted(Path(entry["prediction_file"]).name.partition(".")[0] for entry in summary["metric_per_case"])


def _link_images(images: Path, cases: list[str], target: Path, *, num_channels: int) -> Path:
    target.mkdir(parents=True)
    for case in cases:
        for channel in range(num_channels):
            (target / f"{case}_{channel:04d}.nii.gz").symlink_to((images / f"{case}_0000.nii.gz").absolute())
    return target


def _copy_labels(labels: Path, cases: list[str], target: Path) -> Path:
    target.mkdir(parents=True)
    for case in cases:
        shutil.copy(labels / f"{case}.nii.gz", target)
    return target


def _write_variant(model: Path, target: Path, change: Change) -> Path:
    plan, dataset = read_json(model / "plans.json"), read_json(model / "dataset.json")
    checkpoint = read_checkpoint(model / "fold_0" / "checkpoint_final.pth", without=("optimizer_state",))
    checkpoint = {**copy.deepcopy(checkpoint), "optimizer_state": {"state": {}, "param_groups": []}}
    change(plan, dataset, checkpoint["network_weights"])
    (target / "fold_0").mkdir(parents=True)
    write_json(target / "plans.json", plan)
    write_json(target / "dataset.json", dataset)
    write_checkpoint(target / "fold_0" / "checkpoint_final.pth", checkpoint)
    return target


if __name__ == "__main__":
    main()
