"""Time training steps of one arm in a process of its own; started by `train_vs_nnunet`.

Both arms train the network of one plan on one preprocessed dataset, each with its own loader, augmentation, loss and
step. What is timed is the whole loop: waiting for data counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator


def main() -> None:
    """Print one JSON line: images per second, share of the time waited for data, loss of the last step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--arm", choices=("ours", "stock"), required=True)
    parser.add_argument("--plan", default="stuSPlans")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    from stu_pipeline.nnunet.environment import engine_environment
    from stu_pipeline.workspace import find_dataset

    dataset = find_dataset(arguments.dataset)
    with engine_environment(dataset.workspace, num_workers=arguments.workers):
        open_arm = open_ours if arguments.arm == "ours" else open_stock
        take, step, batch_size, close = open_arm(dataset, arguments)
        try:
            for _ in range(arguments.warm_up):
                loss = step(take())
            waited_s, start = 0.0, time.perf_counter()
            for _ in range(arguments.steps):
                before = time.perf_counter()
                batch = take()
                waited_s += time.perf_counter() - before
                loss = step(batch)
            elapsed_s = time.perf_counter() - start
        finally:
            close()
    images_per_s = arguments.steps * batch_size / elapsed_s
    print(json.dumps({"images_per_s": images_per_s, "data_wait": waited_s / elapsed_s, "loss": loss}))


def open_ours(dataset, arguments) -> tuple[Callable, Callable, int, Callable]:
    """Open our loader, augmentation and step."""
    import dataclasses

    import torch

    from stu_pipeline.nnunet.session import open_trainer
    from stu_pipeline.nnunet.settings import TrainerSettings
    from stu_pipeline.planfile import read_plan_file
    from stu_pipeline.storage import read_json
    from stu_pipeline.training.loop.control import RunControl
    from stu_pipeline.training.loop.layout import apply_layout, choose_layout
    from stu_pipeline.training.parallel.ranks import Ranks
    from stu_pipeline.training.parallel.shares import choose_batch_rule
    from stu_pipeline.training.run.assembly import Assembly, assemble
    from stu_pipeline.training.run.signals import SignalFlags

    plan = read_plan_file(dataset.plan_file(arguments.plan))
    planned = plan.configuration(plan.default_configuration)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = open_trainer(
        plan.raw,
        read_json(dataset.preprocessed_dataset_json),
        configuration=planned.name,
        fold=0,
        device=device,
        settings=TrainerSettings(precision=arguments.precision, seed=0),
        listen=lambda event: None,
        is_stop_asked=lambda: False,
    )
    layout = choose_layout(
        trainer.network,
        num_channels=trainer.num_input_channels,
        patch=planned.patch_size,
        strides=planned.total_stride,
        device=device,
        precision=arguments.precision,
    )
    trainer.settings = dataclasses.replace(trainer.settings, memory_layout=layout)
    apply_layout(trainer.network, layout)
    parts = assemble(
        Assembly(
            trainer=trainer,
            ranks=Ranks(),
            batch_rule=choose_batch_rule(planned.batch_size, 1, lr_given=False, num_epochs=1000),
            control=RunControl(SignalFlags(), interval_s=1e9),
            listen=lambda event: None,
            num_workers=arguments.workers,
            execution=trainer.execution,
            note_execution=lambda execution: None,
        )
    )
    trainer.network.train()
    batches = parts.open_batches(0)
    indices: Iterator[int] = iter(range(10**9))
    return (
        lambda: batches.take(next(indices)),
        lambda batch: float(parts.relief.run(parts.step, batch).loss),
        planned.batch_size,
        batches.close,
    )


def open_stock(dataset, arguments) -> tuple[Callable, Callable, int, Callable]:
    """Open nnU-Net's trainer, which builds the network that the plan names, with everything of its own."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from stu_pipeline.storage import read_json

    content = read_json(dataset.plan_file(arguments.plan))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = nnUNetTrainer(
        {**content, "continue_training": False},
        "3d_fullres",
        0,
        read_json(dataset.preprocessed_dataset_json),
        device,
    )
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.network.train()
    # The validation loader is idle in the training part of an epoch, and its processes wait.
    return (
        lambda: next(trainer.dataloader_train),
        lambda batch: float(trainer.train_step(batch)["loss"]),
        trainer.batch_size,
        lambda: [loader._finish() for loader in (trainer.dataloader_train, trainer.dataloader_val)
                 if hasattr(loader, "_finish")],
    )  # fmt: skip


if __name__ == "__main__":
    main()
