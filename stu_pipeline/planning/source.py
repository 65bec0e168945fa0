"""Find the dataset that is to be planned; import it, or make it of several, first where it is not there yet."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stu_pipeline.datasets.forms.folder_pair import FolderPair
from stu_pipeline.datasets.forms.importing import find_import, import_dataset
from stu_pipeline.datasets.forms.recognise import recognise_form
from stu_pipeline.datasets.union.making import find_union, make_union
from stu_pipeline.datasets.union.request import UnionRequest
from stu_pipeline.errors import DataError
from stu_pipeline.host import count_usable_cores
from stu_pipeline.log import Listener
from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.planning.kept_labels import read_kept_labels
from stu_pipeline.workspace import DatasetPaths, Workspace, find_dataset, open_workspace, use_workspace


@contextlib.contextmanager
def open_source(config: PlanConfig, *, listen: Listener) -> Iterator[DatasetPaths]:
    """Hand out the paths of the dataset, with raw data that are there.

    An imported dataset, and a union, is described among the raw ones; a dry run describes it in a scratch folder
    instead.

    Raises:
        DataError: there is no such dataset, it has no raw data, cannot be imported, or several cannot be joined.
        UsageError: the name of the import or the union is taken.
        ModelError: the model whose labels are to be kept does not say them.
    """
    if config.union:
        with _open_union(config, listen) as dataset:
            yield dataset
        return
    foreign = _find_foreign(config)
    if foreign is None:
        yield _require_raw(find_dataset(config.dataset))
        return
    workspace = open_workspace()
    if not config.dry_run:
        yield _import(foreign, workspace, config, listen)
        return
    known = find_import(foreign, workspace=workspace, name=config.dataset_name)
    if known is not None:
        yield find_dataset(os.fspath(known), workspace)
        return
    with tempfile.TemporaryDirectory(prefix="stu-dry-run-") as scratch, use_workspace(Path(scratch)) as fresh:
        folder = _import(foreign, fresh, config, listen).raw
        # What is planned and would be written is shown where it would really be.
        yield find_dataset(os.fspath(folder), workspace)


@contextlib.contextmanager
def _open_union(config: PlanConfig, listen: Listener) -> Iterator[DatasetPaths]:
    request = UnionRequest(
        sources=config.union,
        dataset_name=config.dataset_name,
        union_labels=config.union_labels,
        keep_channel_names=config.keep_channel_names,
        labels_of=None if config.keep_labels_of is None else read_kept_labels(config.keep_labels_of),
    )
    workspace = open_workspace()
    workers = count_usable_cores() if config.num_workers is None else config.num_workers
    if not config.dry_run:
        folder = make_union(request, workspace=workspace, num_workers=workers, listen=listen)
        yield find_dataset(os.fspath(folder), workspace)
        return
    known = find_union(request, workspace=workspace)
    if known is not None:
        yield find_dataset(os.fspath(known), workspace)
        return
    with tempfile.TemporaryDirectory(prefix="stu-dry-run-") as scratch, use_workspace(Path(scratch)) as fresh:
        folder = make_union(request, workspace=workspace, target=fresh, num_workers=workers, listen=listen)
        # What is planned and would be written is shown where it would really be.
        yield find_dataset(os.fspath(folder), workspace)


def _import(source: Path | FolderPair, workspace: Workspace, config: PlanConfig, listen: Listener) -> DatasetPaths:
    workers = count_usable_cores() if config.num_workers is None else config.num_workers
    folder = import_dataset(source, workspace=workspace, name=config.dataset_name, num_workers=workers, listen=listen)
    return find_dataset(os.fspath(folder), workspace)


def _find_foreign(config: PlanConfig) -> Path | FolderPair | None:
    if config.images is not None and config.labels is not None:
        channels = tuple(name.strip() for name in config.channels.split(",")) if config.channels else ()
        return FolderPair(images=config.images, labels=config.labels, channels=channels)
    path = Path(config.dataset).expanduser()
    # A bare word is an id or a name first; only a folder that is there can have another form.
    if not path.exists() or (os.sep not in config.dataset and _is_known(config.dataset)):
        return None
    form = recognise_form(path.absolute())
    return form.path if form.is_foreign else None


def _is_known(dataset: str) -> bool:
    workspace = open_workspace()
    return dataset.isdecimal() or (workspace.raw / dataset).is_dir()


def _require_raw(dataset: DatasetPaths) -> DatasetPaths:
    if dataset.raw.is_dir():
        return dataset
    raise DataError(
        f"raw data of '{dataset.name}' not found, planning needs it",
        where=dataset.raw.parent,
        hint="set nnUNet_raw, or give the dataset's path",
    )
