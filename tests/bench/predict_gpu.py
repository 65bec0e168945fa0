"""Measure the sliding window and the export on a GPU against stock nnU-Net's: same network, image and tiles.

    make gpu                                   # or: python -m tests.bench.predict_gpu --scales S,B,L,H
    python -m tests.bench.predict_gpu --device cpu --tiny      # shows that it runs; measures no GPU

Random weights, fp16 on a GPU, all mirrored copies. Ours: logits summed in float32, tiles and copies batched to the
memory, slab by slab onto the image's grid. Stock: `nnUNetPredictor` with its results on the device, then its own
export. Prints a Markdown table and writes it to `docs/results/prediction-gpu.md`.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from stu_pipeline.inference.case_grid import CaseGrid, Decision
from stu_pipeline.inference.execution import prepare_network
from stu_pipeline.inference.mask_exporter import MaskExporter
from stu_pipeline.inference.mirroring import list_mirrorings
from stu_pipeline.inference.tiles import choose_walk_axis
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_memory import WindowMemory
from stu_pipeline.inference.window_settings import WindowNetwork, WindowSettings
from stu_pipeline.networks.scales import SCALES, parse_scale
from stu_pipeline.networks.stunet import STUNet

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "prediction-gpu.md"
COLUMNS = ("scale", "labels", "stu window s", "nnU-Net window s", "ratio", "stu GiB", "nnU-Net GiB", "stu export s")
AXES = (0, 1, 2)


def main() -> None:
    """Measure, print the table and write the page."""
    options = _parse()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    rows = [_measure_scale(scale, options, device) for scale in options.scales]
    table = "\n".join(f"| {' | '.join(map(str, row))} |" for row in (COLUMNS, ("---",) * len(COLUMNS), *rows))
    print(table)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        date = datetime.datetime.now(datetime.UTC).date()
        head = f"# Prediction beside nnU-Net on a GPU\n\n{name}, torch {torch.__version__}, {date}, "
        PAGE.write_text(f"{head}image {options.image}, patch {options.patch}.\n\n{table}\n", encoding="utf-8")


def _measure_scale(scale: str, options: argparse.Namespace, device: torch.device) -> tuple[Any, ...]:
    spec = SCALES[parse_scale(scale)]
    strides = [[1, 1, 1], *[[2, 2, 2]] * (3 if options.tiny else 5), *[[1, 1, 1]] * (2 if options.tiny else 0)]
    network = STUNet(
        1, options.labels, strides, list(spec.features_per_stage), list(spec.n_blocks_per_stage), conv_op="3d"
    )
    network = network.to(device).eval().requires_grad_(False)
    image = torch.randn(1, *(options.image,) * 3)
    patch = (options.patch,) * 3
    ours, ours_gib = _time(lambda: _run_ours(network, image, patch, options.labels, device), device, options.rounds)
    export = _time_export(options, device)
    stock, stock_gib = _time(lambda: _run_stock(network, image, patch, options.labels, device), device, options.rounds)
    ratio = f"{stock / ours:.2f}"
    return scale, options.labels, f"{ours:.2f}", f"{stock:.2f}", ratio, ours_gib, stock_gib, f"{export:.2f}"


def _run_ours(network: STUNet, image: torch.Tensor, patch: tuple[int, ...], labels: int, device: torch.device) -> None:
    autocast = torch.float16 if device.type == "cuda" else None
    prepared = prepare_network(network, device=device, autocast=autocast, patch_voxels=patch)
    window = WindowNetwork(run=prepared, mirrorings=tuple(list_mirrorings(AXES)), autocast=autocast)
    settings = WindowSettings(
        patch_voxels=patch,
        num_outputs=labels,
        axis=choose_walk_axis(image.shape[1:], patch),
        device=device,
        results_device=device,
    )
    for _ in slide([window], image, settings, memory=_MEMORY.setdefault(id(network), WindowMemory())):
        pass


def _run_stock(network: STUNet, image: torch.Tensor, patch: tuple[int, ...], labels: int, device: torch.device) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        device=device, allow_tqdm=False, perform_everything_on_device=device.type == "cuda", verbose=False
    )
    manager = SimpleNamespace(num_segmentation_heads=labels)
    plans = SimpleNamespace(get_label_manager=lambda content: manager)
    configuration = SimpleNamespace(patch_size=list(patch), previous_stage_name=None)
    predictor.manual_initialization(network, plans, configuration, None, {}, "nnUNetTrainer", AXES)
    predictor.predict_sliding_window_return_logits(image)


def _time_export(options: argparse.Namespace, device: torch.device) -> float:
    """Time our export of random blobs from the image's size to 1.5 times of it; nothing of stock's."""
    size, target = options.image, options.image * 3 // 2
    grid = CaseGrid(
        network_shape=(size,) * 3,
        cropped_shape=(target,) * 3,
        full_shape=(target,) * 3,
        box=((0, target),) * 3,
        transpose_backward=(0, 1, 2),
    )
    from stu_pipeline.inference.slabs import Slab

    coarse = torch.randn(1, options.labels, *(max(2, size // 32),) * 3, device=device) * 10

    def run() -> None:
        exporter = MaskExporter(grid, Decision(num_outputs=options.labels), axis=0, device=device)
        for start in range(0, size, 32):
            depth = min(32, size - start)
            slab = torch.nn.functional.interpolate(coarse, (depth, size, size), mode="trilinear")[0]
            exporter.add(Slab(start=start, axis=0, scores=slab))
        exporter.finish()

    return _time(run, device, options.rounds)[0]


def _time(function: Callable[[], None], device: torch.device, rounds: int) -> tuple[float, str]:
    """Return the median of seconds after one warm-up, and the peak on the GPU."""
    function()
    seconds = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    gib = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}" if device.type == "cuda" else "-"
    return statistics.median(seconds), gib


_MEMORY: dict[int, WindowMemory] = {}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scales", type=lambda text: text.split(","), default=list("SBLH"))
    parser.add_argument("--labels", type=int, default=26)
    parser.add_argument("--image", type=int, default=320)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="one small image")
    options = parser.parse_args()
    if options.tiny:
        options.scales, options.labels, options.image, options.patch, options.rounds = ["S"], 4, 32, 32, 1
    np.random.seed(0)
    torch.manual_seed(0)
    return options


if __name__ == "__main__":
    main()
