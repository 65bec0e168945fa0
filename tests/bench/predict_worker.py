"""One prediction in a process of its own, for benchmarks: stock's command, or ours with a look at the clock.

python -m tests.bench.predict_worker stock -i IN -o OUT -m MODEL -f 0 -device cpu
python -m tests.bench.predict_worker ours -i IN -o OUT -m MODEL
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Run one side; ours prints the seconds from the start of the process to the first finished batch of tiles."""
    side = sys.argv.pop(1)
    if side == "stock":
        run_stock()
    else:
        run_ours()


def run_stock() -> None:
    """Be `nnUNetv2_predict_from_modelfolder`."""
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder

    predict_entry_point_modelfolder()


def run_ours() -> None:
    """Be `stu predict`, and note when the network has answered for the first time."""
    import torch  # a prediction imports it anyway

    answered: list[float] = []

    def note(module: torch.nn.Module, *_: object) -> None:
        if not answered and type(module).__name__ == "_CpuNetwork":
            answered.append(measure_age_s())

    torch.nn.modules.module.register_module_forward_hook(note)
    from stu_pipeline.cli import main as run_command

    sys.argv = ["stu", "predict", *sys.argv[1:]]
    try:
        run_command()
    finally:
        print(json.dumps({"first_tile_s": answered[0] if answered else None, "end_s": measure_age_s()}), flush=True)


def measure_age_s() -> float:
    """Return the seconds since this process was started, by the system's clock ticks."""
    import os

    ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
