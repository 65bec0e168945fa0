"""Rank candidate weights for a dataset: features of the untouched networks, probed on its own training cases.

Reads: plan, preprocessed cases, files of weights. Writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stu_pipeline.datasets.dataset_json import DatasetJson, parse_dataset_json
from stu_pipeline.datasets.splits.files import read_splits
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.log import Listener, Progress, ignore_events
from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.nnunet.session import choose_device
from stu_pipeline.planfile import ConfigurationPlan
from stu_pipeline.storage import read_json
from stu_pipeline.training.config import TrainConfig
from stu_pipeline.training.ranking.certainty import rank_candidates, write_verdict
from stu_pipeline.training.ranking.config import SCRATCH, RankConfig, RankResult
from stu_pipeline.training.ranking.features import compute_features
from stu_pipeline.training.ranking.linear_probe import score_features
from stu_pipeline.training.ranking.patches import ProbePatch, read_patches
from stu_pipeline.training.run.requirements import find_plan, require_preprocessed
from stu_pipeline.transfer.files.reading import read_weight_file
from stu_pipeline.transfer.loading.adapt import TargetNetwork, adapt_weights
from stu_pipeline.transfer.weight_file import WeightFile
from stu_pipeline.workspace import DatasetPaths, find_dataset

_MIN_CASES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """The dataset that candidates are for."""

    dataset: DatasetPaths
    description: DatasetJson
    configuration: ConfigurationPlan
    device: torch.device


def rank_weights(config: RankConfig, *, listen: Listener = ignore_events) -> RankResult:
    """Rank candidates by how well their features, as they are, tell the dataset's labels apart.

    Nothing is trained but a linear probe, so this takes seconds per candidate and case. It says what a network has
    learned to see, not how fast it will adapt.

    Args:
        config: candidates and dataset.
        listen: receives `Progress` events.

    Raises:
        DataError: data is not preprocessed, or fewer than three cases have labels to tell apart.
        ModelError: a file is no STU-Net, or cannot be adapted to the dataset.
        UsageError: the plan's network is none that the weights fit into.
    """
    start = time.monotonic()
    candidates = _read_candidates(config.weights)
    target = _open_target(config)
    cases = _read_cases(target, config)
    names, scales, scores = [], [], []
    smallest: Scale = min((file.network.scale for file in candidates.values()), key=list(SCALES).index)
    rows: list[tuple[str, Scale, WeightFile | None]] = [
        *((name, file.network.scale, file) for name, file in candidates.items()),
        (SCRATCH, smallest, None),
    ]
    for done, (name, scale, file) in enumerate(rows):
        listen(Progress(step=f"probe '{name}'", done=done, total=len(rows)))
        network = _build_network(target, scale, file, seed=config.seed)
        scores.append(_score(network, cases, target.device, seed=config.seed))
        names.append(name)
        scales.append(str(scale))
    listen(Progress(step="probe", done=len(rows), total=len(rows)))
    table = np.stack(scores)
    is_known = np.asarray(np.isfinite(table).all(axis=0))
    ranked = rank_candidates(tuple(names), tuple(scales), table[:, is_known], seed=config.seed)
    return RankResult(
        rows=ranked,
        cases=tuple(case for case, known in zip(cases, is_known.tolist(), strict=True) if known),
        verdict=write_verdict(ranked),
        elapsed_s=time.monotonic() - start,
    )


def name_candidates(paths: Sequence[Path]) -> tuple[str, ...]:
    """Name files by as many of their last folders as tell them apart.

    >>> name_candidates([Path("a/fold_0/final.pth"), Path("b/fold_0/final.pth")])
    ('a/fold_0/final.pth', 'b/fold_0/final.pth')
    """
    parts = [path.absolute().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = tuple("/".join(part[-depth:]) for part in parts)
        if len(set(names)) == len(names):
            break
    return names


def _read_candidates(paths: tuple[Path, ...]) -> dict[str, WeightFile]:
    return dict(zip(name_candidates(paths), [read_weight_file(path) for path in paths], strict=True))


def _open_target(config: RankConfig) -> _Target:
    dataset = find_dataset(config.dataset)
    plan = find_plan(dataset, TrainConfig(dataset=config.dataset, scale=config.scale, plan_name=config.plan_name))
    configuration = plan.configuration(config.configuration or plan.default_configuration)
    if configuration.previous_stage is not None:
        raise UsageError(f"'{configuration.name}' is a cascade, whose first stage is what weights are chosen for")
    require_preprocessed(dataset, plan, configuration.name)
    path = dataset.preprocessed_dataset_json
    return _Target(
        dataset=dataset,
        description=parse_dataset_json(read_json(path), path),
        configuration=configuration,
        device=choose_device(config.device),
    )


def _read_cases(target: _Target, config: RankConfig) -> dict[str, list[ProbePatch]]:
    """Read the patches of cases drawn at random; those without anything to tell apart are passed over."""
    folder = target.dataset.data_folder(target.configuration.data_identifier)
    # The training cases of the first fold: what is held out for its validation stays unseen.
    known = sorted(read_splits(target.dataset.splits)[0]["train"])
    drawn = np.random.default_rng(config.seed).permutation(len(known))
    ignored = target.description.ignore_label
    cases: dict[str, list[ProbePatch]] = {}
    for place in drawn:
        patches = read_patches(
            folder,
            known[place],
            patch=target.configuration.patch_size,
            num_channels=target.description.num_channels,
            num_patches=config.num_patches,
            left_out=frozenset() if ignored is None else frozenset({ignored}),
            seed=config.seed,
        )
        if patches:
            cases[known[place]] = patches
        if len(cases) == config.num_cases:
            break
    if len(cases) < _MIN_CASES:
        raise DataError(f"{len(cases)} training cases have labels to tell apart, expected {_MIN_CASES}", where=folder)
    return cases


def _build_network(target: _Target, scale: Scale, file: WeightFile | None, *, seed: int) -> STUNet:
    spec, configuration = SCALES[scale], target.configuration
    torch.manual_seed(seed)
    network = STUNet(
        target.description.num_channels,
        len(target.description.label_values),
        configuration.strides,
        spec.features_per_stage,
        spec.n_blocks_per_stage,
        f"{configuration.num_axes}d",
    )
    network.apply(network.initialize)
    if file is not None:
        fresh = TargetNetwork(
            tensors=network.state_dict(),
            label_names=tuple(target.description.find_name(value) for value in target.description.label_values),
            has_regions=False,
            channel_names=tuple(target.description.channel_names.values()),
            strides=configuration.strides,
        )
        network.load_state_dict(adapt_weights(file, fresh).tensors)
    return network.to(target.device).eval()


def _score(
    network: STUNet, cases: dict[str, list[ProbePatch]], device: torch.device, *, seed: int
) -> NDArray[np.float64]:
    features = [compute_features(network, patches, device) for patches in cases.values()]
    labels = [np.concatenate([patch.labels for patch in patches]) for patches in cases.values()]
    return score_features(features, labels, seed=seed)
