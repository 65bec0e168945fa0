"""The plan file as a checked, typed view: the contract between planning and every later stage.

Reads and writes: `<plan name>.json` beside the preprocessed data, `plans.json` in model folders.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.errors import DataError, ModelError, UsageError
from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.plan_architecture import parse_architecture, resolve_configuration
from stu_pipeline.plan_execution import Execution, find_execution
from stu_pipeline.plan_pretrained import PretrainedStart, find_pretrained, pretrained_plan_name
from stu_pipeline.storage import read_json, write_json

STU_KEY = "stu"
PLAN_SCHEMA = 1
DEFAULT_CONFIGURATIONS = ("3d_fullres", "2d")
# What lies beside plans and is none; some of it is large.
_OTHER_JSON = re.compile(r"(dataset|dataset_fingerprint|splits_final|.*\.manifest|.*\.run)\.json\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
# These schemes look at one image only; the others also use the intensities of the whole dataset.
_PER_IMAGE_SCHEMES = frozenset(
    {"ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationPlan:
    """One configuration, with what it inherits filled in. Axes are (z, y, x) after transposing, or (y, x)."""

    name: str
    data_identifier: str
    patch_size: tuple[int, ...]
    batch_size: int
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    strides: tuple[tuple[int, ...], ...]
    network_class: str
    previous_stage: str | None
    next_stage: str | None
    execution: Execution
    """How a training step runs: micro-batch, activation checkpointing. `batch_size` is the effective batch."""
    raw: dict[str, Any]
    """The resolved configuration as in the file. Not to be changed."""

    @property
    def num_axes(self) -> int:
        """Count the spatial axes of the network: 2 or 3."""
        return len(self.patch_size)

    @property
    def total_stride(self) -> tuple[int, ...]:
        """Per axis, how many voxels of the patch become one of the deepest feature map."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(self.num_axes))

    @property
    def smallest_map_voxels(self) -> int:
        """Voxels of the network's deepest feature map."""
        return math.prod(size // step for size, step in zip(self.patch_size, self.total_stride, strict=True))

    @property
    def arch_kwargs(self) -> dict[str, Any]:
        """The network's arguments; empty for plans older than nnU-Net 2.5."""
        kwargs: dict[str, Any] = self.raw.get("architecture", {}).get("arch_kwargs", {})
        return kwargs


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """A plan: of ours (`scale` is set) or of stock nnU-Net (`scale` is None)."""

    name: str
    dataset_name: str
    scale: Scale | None
    configurations: dict[str, ConfigurationPlan]
    transpose_forward: tuple[int, ...]
    raw: dict[str, Any]
    """The file's content. Not to be changed; the engine gets copies."""
    path: Path | None = None
    pretrained: PretrainedStart | None = None
    """The weights the plan was made for; None where it was made for none."""

    @property
    def default_configuration(self) -> str:
        """3d_fullres when the plan has it, else 2d, else the first."""
        return next(
            (name for name in DEFAULT_CONFIGURATIONS if name in self.configurations), next(iter(self.configurations))
        )

    def configuration(self, name: str) -> ConfigurationPlan:
        """Return a configuration.

        Raises:
            UsageError: the plan has none of that name.
        """
        if name not in self.configurations:
            raise UsageError(
                f"plan '{self.name}' has no configuration '{name}', it has: {', '.join(self.configurations)}",
                where=self.path,
                hint=f"--configuration {self.default_configuration}",
            )
        return self.configurations[name]


def read_plan_file(path: Path) -> PlanFile:
    """Read and check a plan file.

    Raises:
        ModelError: missing (the message lists the plans there are), not JSON, incomplete, or naming code
            outside the closed lists.
    """
    if not path.is_file():
        raise _explain_missing(path)
    try:
        raw = read_json(path)
    except DataError as error:
        raise ModelError(error.problem, where=path, hint="make the plan again: stu plan DATASET --force") from error
    return parse_plan(raw, path)


def list_plan_names(folder: Path) -> list[str]:
    """List the plans of ours in a dataset's preprocessed folder by name, sorted; none when it is missing."""
    if not folder.is_dir():
        return []
    return sorted(file.stem for file in folder.glob("*.json") if not _OTHER_JSON.match(file.name) and _is_ours(file))


def parse_plan(raw: Any, path: Path | None = None) -> PlanFile:
    """Check a plan that was already read; `path` is for messages.

    Raises:
        ModelError: as `read_plan_file`.
    """
    try:
        return _parse(raw, path)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed: {error}"
        raise ModelError(f"plan {what}", where=path, hint="make the plan again: stu plan DATASET --force") from error


def write_plan_file(path: Path, raw: Mapping[str, Any]) -> PlanFile:
    """Check a plan and write it atomically; equal plans are equal bytes.

    Raises:
        ModelError: the plan would not be read back.
        StorageError: the file cannot be written.
    """
    plan = parse_plan(dict(raw), path)
    write_json(path, raw)
    return plan


def require_plan_name(name: str) -> str:
    """Return a plan name that can be part of file and folder names.

    Raises:
        UsageError: it holds '__' (nnU-Net splits folder names there) or characters unfit for a file name.
    """
    if "__" in name:
        raise UsageError(f"plan name '{name}' holds '__', which separates the parts of a model folder's name",
                         hint=f"--plan {re.sub('_+', '_', name)}")  # fmt: skip
    if not _NAME.match(name) or name.endswith(".json"):
        raise UsageError(
            f"plan name '{name}' is not a name, expected letters, digits, '_', '-' and '.'", hint="--plan stuBPlans"
        )
    return name


def preprocessing_settings(plan: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Collect what decides the preprocessed voxels of a configuration, as JSON values.

    Two configurations with equal settings can share a data folder. Intensity statistics count only for
    channels whose normalisation uses them.

    Args:
        plan: the content of a plan file.
        configuration: its name; what it inherits is resolved.
    """
    resolved = resolve_configuration(plan["configurations"], configuration)
    statistics = plan["foreground_intensity_properties_per_channel"]
    schemes = list(resolved["normalization_schemes"])
    return {
        "image_reader_writer": plan["image_reader_writer"],
        "preprocessor_name": resolved["preprocessor_name"],
        "transpose_forward": list(plan["transpose_forward"]),
        "spacing": [float(step) for step in resolved["spacing"]],
        "normalization_schemes": schemes,
        "use_mask_for_norm": list(resolved["use_mask_for_norm"]),
        "resampling_fn_data": resolved["resampling_fn_data"],
        "resampling_fn_data_kwargs": dict(resolved["resampling_fn_data_kwargs"]),
        "resampling_fn_seg": resolved["resampling_fn_seg"],
        "resampling_fn_seg_kwargs": dict(resolved["resampling_fn_seg_kwargs"]),
        "intensity_properties": {
            str(channel): statistics[str(channel)]
            for channel, scheme in enumerate(schemes)
            if scheme not in _PER_IMAGE_SCHEMES
        },
    }


def _parse(raw: Any, path: Path | None) -> PlanFile:
    if not isinstance(raw, dict):
        raise TypeError(f"expected an object, found a {type(raw).__name__}")
    configurations = {name: _parse_configuration(raw, name, path) for name in raw["configurations"]}
    if not configurations:
        raise ValueError("it has no configurations")
    name = str(raw["plans_name"])
    if not _NAME.match(name):
        raise ValueError(f"'{name}' is not a plan name")
    block = raw.get(STU_KEY) or {}
    scale = block.get("scale")
    if scale is not None and scale not in SCALES:
        raise ValueError(f"unknown scale '{scale}'")
    if block.get("schema", PLAN_SCHEMA) > PLAN_SCHEMA:
        raise ValueError(f"schema {block['schema']} is newer than this version of stu understands ({PLAN_SCHEMA})")
    return PlanFile(
        name=name,
        dataset_name=str(raw["dataset_name"]),
        scale=scale,
        configurations=configurations,
        transpose_forward=tuple(int(axis) for axis in raw["transpose_forward"]),
        raw=raw,
        path=path,
        pretrained=find_pretrained(block),
    )


def _parse_configuration(raw: Mapping[str, Any], name: str, path: Path | None) -> ConfigurationPlan:
    resolved = resolve_configuration(raw["configurations"], name)
    identifier = str(resolved["data_identifier"])
    for text in (name, identifier):
        if not _NAME.match(text):
            raise ValueError(f"'{text}' cannot be a file name")
    network_class, strides = parse_architecture(name, resolved, path)
    patch = tuple(int(voxels) for voxels in resolved["patch_size"])
    if len(patch) not in (2, 3) or min(patch) < 1 or int(resolved["batch_size"]) < 1:
        raise ValueError(f"patch {list(patch)} and batch {resolved['batch_size']} of '{name}' are not usable")
    if any(len(stride) != len(patch) for stride in strides):
        raise ValueError(f"strides and patch of '{name}' have different axes")
    previous = resolved.get("previous_stage")
    following = resolved.get("next_stage")
    return ConfigurationPlan(
        name=name,
        data_identifier=identifier,
        patch_size=patch,
        batch_size=int(resolved["batch_size"]),
        spacing=tuple(float(step) for step in resolved["spacing"]),
        median_shape=tuple(float(size) for size in resolved["median_image_size_in_voxels"]),
        strides=strides,
        network_class=network_class,
        previous_stage=None if previous is None else str(previous),
        next_stage=None if following is None else str(following),
        execution=find_execution(raw.get(STU_KEY), raw["configurations"], name),
        raw=resolved,
    )


def _is_ours(path: Path) -> bool:
    try:
        content = read_json(path)
    except DataError:
        return False
    return isinstance(content, dict) and STU_KEY in content and content.get("plans_name") == path.stem


def _explain_missing(path: Path) -> ModelError:
    folder = path.parent
    found = list_plan_names(folder)
    wanted = next((spec for spec in SCALES.values() if spec.plan_name == path.stem), None)
    have = f", found: {', '.join(found)}" if found else ""
    if wanted is not None:
        problem = f"no plan for scale {wanted.letter} in {folder.name}{have}"
        return ModelError(problem, hint=f"stu plan {folder.name} --scale {wanted.letter}")
    if path.stem in [pretrained_plan_name(letter) for letter in SCALES]:
        return ModelError(
            f"no plan '{path.stem}' in {folder.name}{have}", hint=f"stu plan {folder.name} --pretrained FILE"
        )
    return ModelError(
        f"no plan '{path.stem}' in {folder.name}{have}", where=folder, hint=f"stu plan {folder.name} --plan {path.stem}"
    )
