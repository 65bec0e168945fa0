"""Measure stu against stock nnU-Net on this machine, in one run, and print a table.

    make bench                                 # or: python -m tests.bench --quick

Medians over pairs measured in turn (A, B, A, B, ...), so that a machine that slows down slows both.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

PATCH, BATCH = (40, 56, 40), 2
NUM_PAIRS = 5


def main() -> None:
    """Print the table."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {NUM_PAIRS} pairs")
    print(f"{'what':58} {'stu':>9} {'nnU-Net':>9} {'ratio':>7}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for scale in ("S", "B"):
        ours = make_step(build_stunet(scale), device, torch.bfloat16)
        stock = make_step(build_stock(), device, torch.float16 if device.type == "cuda" else None)
        patch = "x".join(str(size) for size in PATCH)
        precision = "fp16" if device.type == "cuda" else "fp32"  # what stock runs in
        report(f"step, {scale} bf16; PlainConvUNet {precision}; {patch} batch {BATCH}", ours, stock)
    report("`stu --help` against `nnUNetv2_predict -h`", run_command("stu_pipeline", "--help"), run_stock_help())
    # Processes of their own: what they start would be measured with this one's memory.
    for name in ("loss", "augmentation", "export", "evaluate"):
        subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=True)
    for name in ("train_vs_nnunet", "plan_vs_nnunet"):
        subprocess.run([sys.executable, "-m", f"tests.bench.{name}", *sys.argv[1:]], check=True)


def report(what: str, ours: Callable[[], None], stock: Callable[[], None]) -> None:
    """Time both in turn and print seconds and the ratio stock / ours."""
    ours(), stock()  # warm up
    pairs = [(measure(ours), measure(stock)) for _ in range(NUM_PAIRS)]
    first, second = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    print(f"{what:58} {first:8.3f}s {second:8.3f}s {ratio:6.2f}x", flush=True)


def measure(function: Callable[[], None]) -> float:
    """Return the seconds one call takes."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def build_stunet(scale: str) -> torch.nn.Module:
    """Build STU-Net with the strides of the hippocampus plan."""
    from stu_pipeline.networks.scales import SCALES, parse_scale
    from stu_pipeline.networks.stunet import STUNet

    spec = SCALES[parse_scale(scale)]
    strides = [[1, 1, 1], *[[2, 2, 2]] * 3, *[[1, 1, 1]] * 2]
    return STUNet(1, 3, strides, list(spec.features_per_stage), list(spec.n_blocks_per_stage), deep_supervision=True)


def build_stock() -> torch.nn.Module:
    """Build nnU-Net's default network for the same patch."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(
        1, 4, (32, 64, 128, 256), torch.nn.Conv3d, 3, (1, 2, 2, 2), (2,) * 4, 3, (2,) * 3, conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip


def make_step(network: torch.nn.Module, device: torch.device, dtype: torch.dtype | None) -> Callable[[], None]:
    """Return one training step: forward, a loss on every output, backward, optimizer."""
    network = network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True)
    data = torch.randn(BATCH, 1, *PATCH, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            outputs = network(data)
        sum(output.float().square().mean() for output in outputs).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()

    return step


def run_command(module: str, *arguments: str) -> Callable[[], None]:
    """Return a call that runs a module as a whole process."""
    return lambda: subprocess.run([sys.executable, "-m", module, *arguments], check=True, capture_output=True) and None


def run_stock_help() -> Callable[[], None]:
    """Return a call of stock's predict help."""
    code = "import sys; sys.argv = ['nnUNetv2_predict', '-h']; "
    code += "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as run\n"
    code += "try:\n    run()\nexcept SystemExit:\n    pass"
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True) and None


if __name__ == "__main__":
    main()
