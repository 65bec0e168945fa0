"""One validation case: through the window, onto the grid of its image, and into the next cascade stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

from stu_pipeline.datasets.reading import read_label_map
from stu_pipeline.errors import DataError, StorageError
from stu_pipeline.inference.case_grid import CaseGrid, Decision
from stu_pipeline.inference.execution import prepare_network
from stu_pipeline.inference.mask_exporter import MaskExporter
from stu_pipeline.inference.mirroring import list_mirrorings
from stu_pipeline.inference.probability import MaskPainter
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.inference.tiles import choose_walk_axis
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_settings import WindowNetwork, WindowSettings
from stu_pipeline.nnunet.export_grid import is_export_known, make_case_grid, make_next_stage_grid, resample_with_engine
from stu_pipeline.nnunet.side_swap import find_model_swap
from stu_pipeline.nnunet.trainer import StopTrainingError, nnUNetTrainer
from stu_pipeline.storage import measure_free_gib, storage_errors, sync_file
from stu_pipeline.workspace import next_stage_folder


def open_window_network(trainer: nnUNetTrainer) -> WindowNetwork:
    """Return the trainer's network as it is now, ready for a window."""
    mirroring = trainer.mirroring
    autocast = torch.float16 if trainer.device.type == "cuda" else None
    return WindowNetwork(
        run=prepare_network(
            trainer.bare_network,
            device=trainer.device,
            autocast=autocast,
            patch_voxels=trainer.configuration_manager.patch_size,
        ),
        mirrorings=tuple(list_mirrorings(mirroring.axes)),
        side_swap=find_model_swap(
            mirroring,
            trainer.label_manager,
            num_image_channels=len(trainer.dataset_json["channel_names"]),
            has_previous_stage=trainer.is_cascaded,
        ),
        autocast=autocast,
        name=f"fold {trainer.fold}",
    )


def predict_case(trainer: nnUNetTrainer, network: WindowNetwork, cases: Any, case_id: str, *, folder: Path) -> None:
    """Predict one validation case and write its mask, and the input of the next cascade stages.

    Args:
        trainer: with trained weights.
        network: from `open_window_network`.
        cases: nnU-Net's dataset of the preprocessed cases.
        case_id: which one.
        folder: of the masks.

    Raises:
        NonFiniteError: the network computes numbers that are not finite.
        DataError: the preprocessed data of a next cascade stage is missing.
        StorageError: a mask could not be written.
    """
    data, _, previous, properties = cases.load_case(case_id)
    data = data[:]
    if trainer.is_cascaded:
        one_hot = convert_labelmap_to_one_hot(previous[:], trainer.label_manager.foreground_labels, data.dtype)
        data = np.vstack((data, one_hot))
    image = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
    stages = list(_list_stage_grids(trainer, folder, case_id))
    mask, next_masks = _slide_over(trainer, network, image, properties, [shape for _, shape in stages])
    for (target, _), labels in zip(stages, next_masks, strict=True):
        _write_next_stage(target, case_id, labels)
    _write_mask(trainer, mask, case_id, properties, folder)


def _slide_over(
    trainer: nnUNetTrainer,
    network: WindowNetwork,
    image: torch.Tensor,
    properties: Any,
    next_shapes: Sequence[Sequence[int]],
) -> tuple[Any, list[Any]]:
    """Return the mask on the image's grid, and one on the network grid of every next stage."""
    plans, configuration = trainer.plans_manager, trainer.configuration_manager
    manager = trainer.label_manager
    decision = Decision(
        num_outputs=int(manager.num_segmentation_heads),
        region_values=tuple(int(v) for v in manager.regions_class_order) if manager.has_regions else None,
    )
    patch = tuple(int(size) for size in configuration.patch_size)
    axis = choose_walk_axis(image.shape[1:], patch)
    settings = WindowSettings(
        patch_voxels=patch,
        num_outputs=decision.num_outputs,
        has_regions=decision.region_values is not None,
        axis=axis,
        device=trainer.device,
        results_device=trainer.device,
    )
    slabs = slide([network], image, settings, check_stop=lambda: _stop_if_asked(trainer))
    grid = make_case_grid(plans, configuration, image.shape[1:], properties)
    next_grids = [make_next_stage_grid(plans, configuration, image.shape[1:], shape) for shape in next_shapes]
    if not is_export_known(configuration):
        return _export_with_engine(trainer, slabs, decision, (grid, next_grids), properties)
    exporters = [MaskExporter(item, decision, axis=axis, device=trainer.device) for item in (grid, *next_grids)]
    for slab in slabs:
        for exporter in exporters:
            exporter.add(slab)
    mask, *next_masks = [exporter.finish() for exporter in exporters]
    return mask, next_masks


def _export_with_engine(
    trainer: nnUNetTrainer,
    slabs: Iterator[Slab],
    decision: Decision,
    grids: tuple[CaseGrid, list[CaseGrid]],
    properties: Any,
) -> tuple[Any, list[Any]]:
    """Collect a whole case for a plan whose resampling only nnU-Net knows."""
    parts = [(slab.axis, slab.scores.cpu().clone()) for slab in slabs]
    axis = parts[0][0]
    logits = torch.cat([scores for _, scores in parts], dim=1 + axis)
    masks = []
    for grid in (grids[0], *grids[1]):
        resampled = resample_with_engine(
            trainer.plans_manager, trainer.configuration_manager, logits, grid=grid, properties=properties
        )
        painter = MaskPainter(grid, decision, axis, threshold=0.0)
        painter.add(Slab(start=0, axis=axis, scores=torch.from_numpy(np.ascontiguousarray(resampled))))
        masks.append(painter.finish())
    return masks[0], masks[1:]


def _stop_if_asked(trainer: nnUNetTrainer) -> None:
    if trainer.is_stop_asked():
        raise StopTrainingError


def _write_mask(trainer: nnUNetTrainer, mask: Any, case_id: str, properties: Any, folder: Path) -> None:
    ending = trainer.dataset_json["file_ending"]
    scratch = folder.with_name(f"{folder.name}.partial")
    with storage_errors(folder):
        scratch.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        writer = trainer.plans_manager.image_reader_writer_class()
        writer.write_seg(np.ascontiguousarray(mask), str(scratch / f"{case_id}{ending}"), properties)
        _require_written(scratch / f"{case_id}{ending}")
        sync_file(scratch / f"{case_id}{ending}")
        (scratch / f"{case_id}{ending}").replace(folder / f"{case_id}{ending}")
        if not any(scratch.iterdir()):
            scratch.rmdir()


def _require_written(mask: Path) -> None:
    # SimpleITK reports no error on a full disk, so only reading back shows what is there.
    try:
        read_label_map(mask)
    except DataError as error:
        raise StorageError(
            f"validation mask '{mask.name}' could not be verified after writing "
            f"({measure_free_gib(mask):.2f} GiB free)",
            where=mask.parent,
            hint="free some space and run the same command again",
        ) from error


def _list_stage_grids(trainer: nnUNetTrainer, folder: Path, case_id: str) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """Yield where the next stages want this case, and on which grid."""
    for name, target_folder in list_next_stages(trainer, folder):
        configuration = trainer.plans_manager.get_configuration(name)
        data_folder = Path(trainer.preprocessed_dataset_folder_base) / configuration.data_identifier
        if not (data_folder / f"{case_id}.pkl").is_file():
            raise DataError(
                f"next stage '{name}' is not preprocessed, case '{case_id}' is missing",
                where=data_folder,
                hint=f"stu plan {trainer.plans_manager.dataset_name} --configuration {name}, then run this again",
            )
        dataset_class = infer_dataset_class(str(data_folder))
        data, _, _, _ = dataset_class(str(data_folder), [case_id]).load_case(case_id)
        yield target_folder, tuple(data.shape[1:])


def _write_next_stage(folder: Path, case_id: str, labels: Any) -> None:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        nnUNetDatasetBlosc2.save_seg(labels, str(folder / case_id))


def list_next_stages(trainer: nnUNetTrainer, folder: Path) -> list[tuple[str, Path]]:
    """List the cascade stages that start from these masks, with the folder of their input."""
    if folder == trainer.paths.averaged_summary.parent:
        return []
    names = trainer.configuration_manager.next_stage_names or []
    return [(name, next_stage_folder(Path(trainer.output_folder_base), name)) for name in names]
