"""One model or several as one: folds average logits, models average probabilities on the image's grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.errors import MemoryLimitError, ModelError, NonFiniteError
from stu_pipeline.nnunet.case import (
    PreparedCase,
    RawCase,
    logits_to_mask,
    logits_to_probabilities,
    prepare_case,
    probabilities_to_mask,
    read_raw_case,
    resample_logits,
)
from stu_pipeline.nnunet.mirrored_inference import find_model_swap
from stu_pipeline.nnunet.model import EngineModel, build_network, load_weights, require_fitting_weights
from stu_pipeline.prediction.model_folder import FoldWeights, ModelFolder
from stu_pipeline.prediction.tiles import TileSettings, predict_tiles

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    """What is the same for every model of an ensemble."""

    device: torch.device
    autocast: torch.dtype | None = None
    step: float = 0.5
    use_mirroring: bool = True
    may_repeat_in_fp32: bool = False
    """Whether an image whose logits overflow in a 16-bit type is computed again in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedCase:
    """A case read, and prepared for every model that needs no previous stage."""

    case: Case
    raws: dict[str, RawCase]
    """By name of the reader."""
    prepared: tuple[PreparedCase | None, ...]
    """One per model; None for a cascade."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The mask `(z, y, x)` of one case on its image's grid."""

    mask: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float32] | None
    properties: dict[str, Any]
    raw: RawCase
    warnings: tuple[str, ...] = ()


class Member:
    """The folds of one model folder around one network; a cascade carries its previous stage."""

    def __init__(self, folder: ModelFolder, settings: InferenceSettings) -> None:
        self.folder = folder
        self.model = folder.model
        self.settings = settings
        self.previous = Member(folder.previous, settings) if folder.previous is not None else None
        self._network: nn.Module = build_network(self.model, folder.folds[0].load(), settings.device)
        self._loaded = 0
        for item in folder.folds[1:]:
            require_fitting_weights(self._network, item.load(), item.path)
        # Each fold is mirrored as it was trained.
        self._tiles = tuple(_choose_tiles(self.model, item, settings) for item in folder.folds)

    @torch.inference_mode()
    def predict_logits(
        self, raw: RawCase, prepared: PreparedCase | None, warnings: list[str], report: Report
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Return logits on the cropped image's grid, in the plan's axes, and the properties to go on with.

        Raises:
            NonFiniteError: the network computed NaN or infinite numbers.
            MemoryLimitError: even with the results in RAM and one tile at a time there is too little memory.
        """
        if prepared is None:
            previous = self.previous.predict_mask(raw, warnings, report) if self.previous is not None else None
            prepared = prepare_case(self.model, raw, previous)
        data = torch.from_numpy(prepared.data)
        total: torch.Tensor | None = None
        for index in range(len(self.folder.folds)):
            logits = self._predict_fold(index, data, warnings, report)
            total = logits if total is None else total.add_(logits)
        if total is None:
            raise ModelError("model has no folds", where=self.folder.path)
        if len(self.folder.folds) > 1:
            total /= len(self.folder.folds)
        return resample_logits(self.model, total, prepared.properties), prepared.properties

    def predict_mask(self, raw: RawCase, warnings: list[str], report: Report) -> npt.NDArray[Any]:
        """Return the mask `(z, y, x)` of this model alone on the image's grid."""
        logits, properties = self.predict_logits(raw, None, warnings, report)
        return logits_to_mask(self.model, logits, properties)

    def _predict_fold(self, index: int, data: torch.Tensor, warnings: list[str], report: Report) -> torch.Tensor:
        item = self.folder.folds[index]
        if index != self._loaded:
            load_weights(self._network, item.load())
            self._loaded = index
        tiles = self._tiles[index]
        logits = self._slide(tiles, data, report)
        if bool(torch.isfinite(logits).all()):
            return logits
        if self.settings.may_repeat_in_fp32 and self.settings.autocast is not None:
            warnings.append(f"fold {item.fold}: 16-bit numbers overflowed, computed again in float32")
            logits = self._slide(replace(tiles, autocast=None), data, report)
            if bool(torch.isfinite(logits).all()):
                return logits
        raise NonFiniteError(
            f"fold {item.fold} of '{self.folder.path.name}' computed numbers that are NaN or infinite",
            where=item.path,
            hint="--precision fp32, or another checkpoint",
        )

    def _slide(self, tiles: TileSettings, data: torch.Tensor, report: Report) -> torch.Tensor:
        """Run the window; when the GPU is full, once more with the results in RAM and one tile at a time."""
        ladder = [tiles, replace(tiles, results_device=torch.device("cpu"), max_tiles=1)]
        for settings in ladder:
            try:
                return predict_tiles(self._network, data, settings, on_progress=report).cpu()
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
            except (RuntimeError, MemoryError) as error:
                if isinstance(error, MemoryError) or "allocate memory" in str(error):
                    break
                raise
        raise MemoryLimitError(
            f"not enough memory for {self.model.num_outputs} outputs of {'x'.join(map(str, data.shape[1:]))} voxels",
            hint="--device cpu, or a machine with more memory",
        )


def _choose_tiles(model: EngineModel, fold: FoldWeights, settings: InferenceSettings) -> TileSettings:
    """Say how the window slides for one fold; its checkpoint must fit the labels of the model."""
    mirroring = fold.mirroring if settings.use_mirroring else Mirroring(axes=())
    return TileSettings(
        patch_voxels=model.patch_voxels,
        num_outputs=model.num_outputs,
        step=settings.step,
        mirror_axes=mirroring.axes,
        side_swap=find_model_swap(
            mirroring,
            model.labels,
            num_image_channels=model.num_image_channels,
            has_previous_stage=model.previous_stage is not None,
            where=fold.path,
        ),
        device=settings.device,
        results_device=settings.device,
        autocast=settings.autocast,
    )


class Ensemble:
    """Every model folder of one prediction.

    Args:
        folders: opened model folders with the same labels and channels.
        settings: device, type, step, mirroring.
        weights: one per folder; None weighs them equally.

    Raises:
        ModelError: the models do not share labels or channels, or one cannot be built.
    """

    def __init__(
        self, folders: Sequence[ModelFolder], settings: InferenceSettings, weights: Sequence[float] | None = None
    ) -> None:
        require_same_labels(folders)
        self.members = tuple(Member(folder, settings) for folder in folders)
        total = sum(weights) if weights is not None else len(folders)
        self.weights = tuple(weight / total for weight in (weights if weights is not None else [1.0] * len(folders)))

    def load(self, case: Case) -> LoadedCase:
        """Read and prepare a case; safe to call from another thread than `predict`.

        Raises:
            DataError: the case cannot be used.
            MemoryLimitError: it does not fit the memory.
        """
        raws: dict[str, RawCase] = {}
        prepared: list[PreparedCase | None] = []
        for member in self.members:
            name = member.model.reader_name
            if name not in raws:
                raws[name] = read_raw_case(member.model, case)
            prepared.append(prepare_case(member.model, raws[name]) if member.previous is None else None)
        return LoadedCase(case=case, raws=raws, prepared=tuple(prepared))

    def predict(self, loaded: LoadedCase, report: Report, *, with_probabilities: bool = False) -> Prediction:
        """Predict a loaded case.

        Raises:
            DataError: a cascade's second stage cannot prepare it.
            NonFiniteError: NaN or infinite numbers were computed.
            MemoryLimitError: it does not fit the memory.
        """
        warnings: list[str] = []
        first = self.members[0]
        raw = loaded.raws[first.model.reader_name]
        if len(self.members) == 1:
            logits, properties = first.predict_logits(raw, loaded.prepared[0], warnings, report)
            probabilities = logits_to_probabilities(first.model, logits, properties) if with_probabilities else None
            mask = logits_to_mask(first.model, logits, properties)
            return Prediction(mask, probabilities, properties, raw, tuple(warnings))
        total: npt.NDArray[np.float32] | None = None
        kept: dict[str, Any] = {}
        for member, weight, prepared in zip(self.members, self.weights, loaded.prepared, strict=True):
            source = loaded.raws[member.model.reader_name]
            logits, properties = member.predict_logits(source, prepared, warnings, report)
            part = logits_to_probabilities(member.model, logits, properties) * np.float32(weight)
            if total is not None and total.shape != part.shape:
                raise ModelError(f"models see case '{loaded.case.id}' on different grids: {total.shape}, {part.shape}")
            total = part if total is None else np.add(total, part, out=total)
            kept = kept or properties
        if total is None:
            raise ModelError("ensemble has no models")
        mask = probabilities_to_mask(first.model, total)
        return Prediction(mask, total if with_probabilities else None, kept, raw, tuple(warnings))


def require_same_labels(folders: Sequence[ModelFolder]) -> None:
    """Refuse models that do not speak of the same labels, regions and channels.

    Raises:
        ModelError: the differences are in `details`.
    """
    first = folders[0].model.dataset
    problems = []
    for folder in folders[1:]:
        other = folder.model.dataset
        for name in sorted({*first.labels, *other.labels}):
            a, b = first.labels.get(name, "absent"), other.labels.get(name, "absent")
            if a != b:
                problems.append(f"label '{name}' is {a} in '{folders[0].path.name}' and {b} in '{folder.path.name}'")
        if first.has_regions and list(first.labels) != list(other.labels):
            problems.append(f"regions are listed in another order in '{folder.path.name}'")
        if first.regions_class_order != other.regions_class_order:
            problems.append(f"regions_class_order differs: {first.regions_class_order}, {other.regions_class_order}")
        if first.label_ids != other.label_ids:
            problems.append(f"masks of '{folder.path.name}' are written with other label ids")
        if first.num_channels != other.num_channels:
            problems.append(f"channels differ: {first.num_channels}, {other.num_channels}")
    if problems:
        raise ModelError(
            "models cannot be one ensemble, they have different labels",
            where=folders[-1].path,
            details=tuple(problems),
        )
