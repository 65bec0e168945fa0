"""Measure the way from logits to a mask: ours, slab by slab, against nnU-Net's own export of the same logits.

    python -m tests.bench.export               # the full table; --quick leaves out the large sizes

Every measurement is a process of its own. nnU-Net holds the logits of the whole volume on both grids, so that it is
measured where that fits (at two sizes, to see that it grows with the volume) and extrapolated to the full one.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure_process import run_measured

NUM_LABELS, SLAB_PLANES, COARSE = 105, 32, 4
REFERENCE_PLANES = 4
# Networks grids and image grids: 1/64, 1/8 and all of the volume that nnU-Net's users report.
SMALL = ((50, 60, 60), (75, 128, 128))
MEDIUM = ((100, 120, 120), (150, 256, 256))
FULL = ((200, 240, 240), (300, 512, 512))


@dataclass(frozen=True)
class Row:
    """One measurement."""

    seconds: float
    cpu_s: float
    peak_mib: float
    facts: dict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small size only")
    parser.add_argument("--runs", type=int, default=3, help="of the small size; the others run once")
    parser.add_argument("--worker", help="internal: ours, reference or stock")
    parser.add_argument("--shapes", help="internal")
    options = parser.parse_args()
    if options.worker:
        network, image = json.loads(options.shapes)
        WORKERS[options.worker](tuple(network), tuple(image))
        return
    sizes = [SMALL] if options.quick else [SMALL, MEDIUM, FULL]
    print(f"{NUM_LABELS} labels, slabs of {SLAB_PLANES} planes, peak of the whole process\n")
    print("| network grid | image grid | what | seconds | CPU s | peak MiB | faster | less CPU | less memory |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    stock: Row | None = None
    for size in sizes:
        runs = options.runs if size is SMALL else 1
        ours = measure("ours", size, runs)
        is_measured = size is not FULL
        if is_measured:
            stock = measure("stock", size, runs)
        elif stock is not None:
            stock = extrapolate(stock, MEDIUM, FULL)
        report(size, "stu", ours, None)
        report(size, "nnU-Net" if is_measured else "nnU-Net, extrapolated", stock, ours)
        same = measure("reference", size, 1).facts
        print(f"\n{same}\n" if size is sizes[-1] else f"<!-- {same} -->", flush=True)


def measure(worker: str, size: tuple, num_runs: int) -> Row:
    """Return the median of some runs."""
    rows = []
    for _ in range(num_runs):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.bench.export", "--worker", worker, "--shapes", json.dumps(size)]
            found = run_measured(command, variables={}, log=Path(folder) / "log").document
        rows.append(Row(found["seconds"], found["cpu_s"], found["peak_mib"], found))
    seconds, cpu_s, peak = (
        statistics.median(getattr(row, name) for row in rows) for name in ("seconds", "cpu_s", "peak_mib")
    )
    return Row(seconds, cpu_s, peak, rows[-1].facts)


def extrapolate(row: Row, size: tuple, wanted: tuple) -> Row:
    """Scale time, and memory beyond what the imports take, with the volume of the image."""
    growth = volume(wanted[1]) / volume(size[1])
    base = row.facts["base_mib"]
    return Row(row.seconds * growth, row.cpu_s * growth, base + (row.peak_mib - base) * growth, row.facts)


def report(size: tuple, what: str, row: Row, ours: Row | None) -> None:
    grids = " | ".join("x".join(map(str, shape)) for shape in size)
    ratios = " | | "
    if ours is not None:
        pairs = ((row.seconds, ours.seconds), (row.cpu_s, ours.cpu_s), (row.peak_mib, ours.peak_mib))
        ratios = " | ".join(f"{theirs / mine:.1f}x" for theirs, mine in pairs)
    print(f"| {grids} | {what} | {row.seconds:.2f} | {row.cpu_s:.2f} | {row.peak_mib:.0f} | {ratios} |", flush=True)


def volume(shape: tuple) -> int:
    return shape[0] * shape[1] * shape[2]


class Logits:
    """Logits as of a trained network: organs of random shape, 10 inside, blurred at the border, with noise."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        import torch

        self.shape = shape
        coarse = [-(-size // COARSE) for size in shape]
        generator = torch.Generator().manual_seed(0)
        # Each organ a blob around a random centre; the rest is background.
        centres = torch.rand((3 * NUM_LABELS, 3), generator=generator) * torch.tensor(coarse)
        radii = (0.03 + 0.07 * torch.rand(len(centres), generator=generator)) * volume(tuple(coarse)) ** (1 / 3)
        points = torch.stack(torch.meshgrid(*(torch.arange(n) + 0.5 for n in coarse), indexing="ij"), dim=-1)
        distance, label = torch.full(coarse, 1.0), torch.zeros(coarse, dtype=torch.long)
        for index, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
            scaled = (points - centre).square().sum(-1).sqrt() / radius
            label[scaled < distance] = index % NUM_LABELS
            distance = torch.minimum(distance, scaled)
        self.labels = label
        self.noise = 0.5 * torch.randn((NUM_LABELS, *shape[1:]), generator=generator)

    def list_slabs(self, planes: int) -> Iterator:
        """Yield slabs along z; the last plane of coarse voxels of each is blurred into the next one's."""
        import torch
        from torch.nn import functional

        from stu_pipeline.inference.slabs import Slab

        for start in range(0, self.shape[0], planes):
            stop = min(start + planes, self.shape[0])
            scores = torch.empty((NUM_LABELS, stop - start, *self.shape[1:]))
            for channel in range(NUM_LABELS):
                soft = (self.labels == channel).float()[None, None]
                low, high = max(start // COARSE - 1, 0), min(-(-stop // COARSE) + 1, self.labels.shape[0])
                fine = [(high - low) * COARSE, *self.shape[1:]]  # the last coarse plane may be cut
                grown = functional.interpolate(soft[:, :, low:high], fine, mode="trilinear")[0, 0]
                torch.mul(grown[start - low * COARSE : stop - low * COARSE], 10, out=scores[channel])
            for index in range(stop - start):
                scores[:, index] += self.noise.roll((start + index) * 7, dims=2)
            yield Slab(start=start, axis=0, scores=scores)
            del scores  # one slab at a time


def measure_ours(network: tuple[int, int, int], image: tuple[int, int, int]) -> None:
    import torch

    from stu_pipeline.inference.export_memory import forecast_export_bytes
    from stu_pipeline.inference.mask_exporter import MaskExporter

    grid, decision = describe_case(network, image)
    logits, base = Logits(network), read_peak_mib()
    watch = Watch()
    exporter = MaskExporter(grid, decision, axis=0, device=torch.device("cpu"))
    for slab in logits.list_slabs(SLAB_PLANES):
        with watch:
            exporter.add(slab)
        del slab
    mask = exporter.finish()
    forecast = forecast_export_bytes(grid, decision, 0, SLAB_PLANES) / 2**20
    slab_mib = NUM_LABELS * SLAB_PLANES * volume((1, *network[1:])) * 4 / 2**20
    finish(watch, base, foreground=float((mask > 0).mean()), forecast_mib=forecast, slab_mib=slab_mib)


def measure_stock(network: tuple[int, int, int], image: tuple[int, int, int]) -> None:
    import numpy as np
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

    from tests.stock_export import describe_stock_case

    base = read_peak_mib()
    scores = np.empty((NUM_LABELS, *network), dtype=np.float16)
    for slab in Logits(network).list_slabs(SLAB_PLANES):
        scores[:, slab.start : slab.stop] = slab.scores
    described = describe_stock_case(*describe_case(network, image))
    watch = Watch()
    with watch:
        mask = convert_predicted_logits_to_segmentation_with_correct_shape(scores, *described, num_threads_torch=2)
    finish(watch, base, foreground=float((mask > 0).mean()))


def compare_with_reference(network: tuple[int, int, int], image: tuple[int, int, int]) -> None:
    """Compare every voxel with all channels resampled in float32, a few planes at a time."""
    import numpy as np
    import torch

    from stu_pipeline.inference.mask_exporter import MaskExporter
    from stu_pipeline.inference.resampled_slabs import resample_slabs

    grid, decision = describe_case(network, image)
    logits, base = Logits(network), read_peak_mib()
    exporter = MaskExporter(grid, decision, axis=0, device=torch.device("cpu"))
    watch, dense = Watch(), []
    for slab in logits.list_slabs(SLAB_PLANES):
        exporter.add(slab)
    mask = exporter.finish()
    with watch:
        for part in resample_slabs(logits.list_slabs(SLAB_PLANES), grid, axis=0, max_planes=REFERENCE_PLANES):
            dense.append(part.scores.numpy().argmax(axis=0).astype(mask.dtype))
    different = int(np.count_nonzero(mask != np.concatenate(dense)))
    finish(watch, base, voxels=mask.size, different_from_dense_float32=different)


def describe_case(network: tuple[int, int, int], image: tuple[int, int, int]) -> tuple:
    from stu_pipeline.inference.case_grid import Decision
    from tests.dense_export import make_grid

    return make_grid(network, image), Decision(num_outputs=NUM_LABELS)


def read_peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Watch:
    """Sums wall and CPU seconds over the blocks it is entered for."""

    def __init__(self) -> None:
        self.seconds = self.cpu_s = 0.0

    def __enter__(self) -> None:
        self.seconds -= time.perf_counter()
        self.cpu_s -= time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()
        self.cpu_s += time.process_time()


def finish(watch: Watch, base_mib: float, **facts: object) -> None:
    times = {"seconds": watch.seconds, "cpu_s": watch.cpu_s}
    print(json.dumps({**times, "peak_mib": read_peak_mib(), "base_mib": base_mib, **facts}))


WORKERS = {"ours": measure_ours, "stock": measure_stock, "reference": compare_with_reference}

if __name__ == "__main__":
    main()
