"""The side-car of a released `.model`: the plans of nnU-Net v1 as facts about the weights.

Reads: `<name>.model.pkl`, as data only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.plain_pickle import PICKLE_ERRORS, load_settings_pickle
from stu_pipeline.errors import ModelError
from stu_pipeline.knowledge import read_knowledge
from stu_pipeline.networks.layout import NUM_LEVELS
from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.networks.weights import RecognisedNetwork
from stu_pipeline.transfer.files.facts import parse_sizes, parse_strides, parse_truths, parse_whole
from stu_pipeline.transfer.weight_file import WeightFacts

PUBLISHED_PLAN = "published/stunet_pretraining.json"
PUBLISHED_LABELS = "published/stunet_labels.json"

_MAX_BYTES = 1 << 22
_TRAINER = re.compile(r"STUNetTrainer(?:_(\w+?))?(?:_(?:ft|ep\d+k))*")
# What nnU-Net v1's names of normalisations are in v2; everything but these was z-scored.
_SCHEMES = {"nonCT": "ZScoreNormalization", "CT": "CTNormalization", "noNorm": "NoNormalization"}
_STAGE_PLACE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What a side-car tells."""

    path: Path
    trainer_name: str
    scale: Scale | None
    """The one in the trainer's name. The counts of features in the plans are those of a plain U-Net."""
    num_input_channels: int
    num_classes: int
    """Outputs, background included."""
    facts: WeightFacts


def find_sidecar(path: Path) -> Path | None:
    """Return the side-car beside a file of weights, or None."""
    sidecar = path.with_name(f"{path.name}.pkl")
    return sidecar if sidecar.is_file() else None


def read_sidecar(path: Path) -> Sidecar:
    """Read a side-car. Nothing in it is run.

    Raises:
        ModelError: missing, damaged, holding more than settings, or no side-car of an STU-Net.
    """
    if not path.is_file():
        raise ModelError(f"side-car '{path.name}' not found", where=path.parent)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ModelError(f"side-car '{path.name}' has {size >> 20} MiB, expected a few KiB", where=path.parent)
    try:
        return _parse(path, load_settings_pickle(path.read_bytes()))
    except KeyError as error:
        raise _explain(path, f"{str(error)[:80]} is missing") from error
    except PICKLE_ERRORS as error:
        raise _explain(path, (str(error).splitlines() or [type(error).__name__])[0][:200]) from error


def require_own_sidecar(sidecar: Sidecar, network: RecognisedNetwork, where: Path) -> None:
    """Refuse the side-car of other weights.

    Raises:
        ModelError: all differences are listed.
    """
    if problems := check_sidecar(sidecar, network):
        raise ModelError(
            f"side-car '{sidecar.path.name}' belongs to other weights than '{where.name}': {problems[0]}",
            where=sidecar.path.parent,
            hint="give the side-car that was released with these weights: --sidecar FILE",
            details=tuple(problems[1:]),
        )


def check_sidecar(sidecar: Sidecar, network: RecognisedNetwork) -> list[str]:
    """Compare a side-car with what the tensors tell; one line per difference."""
    problems = []
    if sidecar.scale is not None and sidecar.scale != network.scale:
        problems.append(f"it is of scale {sidecar.scale} ('{sidecar.trainer_name}'), the weights are {network.scale}")
    if sidecar.num_classes != network.num_classes:
        problems.append(f"it is of {sidecar.num_classes} outputs, the weights have {network.num_classes}")
    if sidecar.num_input_channels != network.num_input_channels:
        problems.append(
            f"it is of {sidecar.num_input_channels} channels, the weights take {network.num_input_channels}"
        )
    return problems


def _parse(path: Path, content: Any) -> Sidecar:
    if not isinstance(content, Mapping) or not isinstance(content.get("plans"), Mapping):
        raise ValueError("it holds no plans of nnU-Net v1")
    name, plans = content["name"], content["plans"]
    match = _TRAINER.fullmatch(name) if isinstance(name, str) and len(name) < 100 else None
    if match is None:
        raise ValueError(f"it is of the trainer '{str(name)[:60]}', not of STU-Net's")
    num_channels, num_labels = parse_whole([plans["num_modalities"], plans["num_classes"]])
    sidecar = Sidecar(
        path=path,
        trainer_name=name,
        scale=next((letter for letter, spec in SCALES.items() if spec.name == match[1]), None),
        num_input_channels=num_channels,
        num_classes=num_labels + 1,
        facts=_parse_facts(path, plans, _find_stage(content, plans)),
    )
    if is_published_plan(sidecar):
        names = tuple(read_knowledge(PUBLISHED_LABELS)["names"])
        return replace(sidecar, facts=replace(sidecar.facts, label_names=names))
    return sidecar


def is_published_plan(sidecar: Sidecar) -> bool:
    """Tell whether a side-car is that of the released weights, in everything that our copy of their plan says."""
    published, facts = read_knowledge(PUBLISHED_PLAN), sidecar.facts
    pairs = [
        (facts.spacing_mm, published["spacing"]),
        (facts.patch_voxels, published["patch_size"]),
        (facts.strides, [tuple(stride) for stride in published["strides"]]),
        (facts.normalization_schemes, published["normalization_schemes"]),
        (facts.use_mask_for_norm, published["use_mask_for_norm"]),
        (facts.transpose_forward, published["transpose_forward"]),
    ]
    counts = (sidecar.num_input_channels, sidecar.num_classes)
    return counts == (published["num_input_channels"], published["num_classes"]) and all(
        found is not None and list(found) == list(expected) for found, expected in pairs
    )


def _find_stage(content: Mapping[str, Any], plans: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the stage that was trained; the last one, of full resolution, where the side-car does not say."""
    stages = plans["plans_per_stage"]
    if isinstance(stages, list | tuple):
        stages = dict(enumerate(stages))
    if not isinstance(stages, Mapping) or not stages or not all(type(key) is int for key in stages):
        raise ValueError("its plans_per_stage are malformed")
    init = content.get("init")
    wanted = init[_STAGE_PLACE] if isinstance(init, tuple | list) and len(init) > _STAGE_PLACE else None
    stage = stages[wanted] if type(wanted) is int else stages[max(stages)]
    if not isinstance(stage, Mapping):
        raise ValueError("its plans_per_stage are malformed")
    return stage


def _parse_facts(path: Path, plans: Mapping[str, Any], stage: Mapping[str, Any]) -> WeightFacts:
    pools = [parse_whole(pool) for pool in stage["pool_op_kernel_sizes"]]
    num_axes = len(pools[0])
    # As STU-Net's trainers did: five poolings, whatever the plans say.
    pools = [*pools, *([(1,) * num_axes] * NUM_LEVELS)][:NUM_LEVELS]
    schemes = [plans["normalization_schemes"][channel] for channel in range(len(plans["normalization_schemes"]))]
    masks = [plans["use_mask_for_norm"][channel] for channel in range(len(plans["use_mask_for_norm"]))]
    return WeightFacts(
        strides=parse_strides(((1,) * num_axes, *pools)),
        spacing_mm=parse_sizes(stage["current_spacing"]),
        patch_voxels=parse_whole(stage["patch_size"]),
        normalization_schemes=_translate(schemes),
        use_mask_for_norm=parse_truths(masks),
        transpose_forward=parse_whole(plans["transpose_forward"]),
        source=f"side-car '{path.name}'",
    )


def _translate(schemes: list[object]) -> tuple[str, ...] | None:
    """Name the normalisations as nnU-Net v2 does; None where it has no such one."""
    if any(not isinstance(scheme, str) or scheme not in _SCHEMES for scheme in schemes):
        return None
    return tuple(_SCHEMES[str(scheme)] for scheme in schemes)


def _explain(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"side-car '{path.name}' is damaged or none of released weights, so it is refused: {reason}",
        where=path.parent,
        hint="download it again, or leave it out: what it tells is then unknown",
    )
