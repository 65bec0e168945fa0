"""Open a file of weights of any form that is known, without yet asking whether it can be used.

Reads: `.model` with its side-car, `.pth`, `.safetensors` with its JSON.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.nnunet.checkpoint_archive import load_archive
from stu_pipeline.storage import hash_file
from stu_pipeline.transfer.files.arguments import parse_arguments
from stu_pipeline.transfer.files.description import WeightDescription, find_description_path, read_description
from stu_pipeline.transfer.files.safetensors_file import looks_like_safetensors, read_safetensors
from stu_pipeline.transfer.files.sidecar import Sidecar, find_sidecar, read_sidecar
from stu_pipeline.transfer.files.tensors import require_plain_tensors
from stu_pipeline.transfer.weight_file import WeightFacts, WeightForm

Result = TypeVar("Result")

_ZIP = b"PK\x03\x04"
# How other files start that people give by mistake.
_OTHERS = (
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9", "torch's format before 1.6, which is a program and not read"),
    (b"\x80", "a plain pickle, which is a program and not read"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"PK", "an empty or split zip archive"),
    (b"<", "a web page, so the download went wrong"),
    (b"version https://git-lfs", "a pointer of Git LFS, so the download went wrong"),
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OpenedWeights:
    """What a file holds, as it is."""

    path: Path
    form: WeightForm
    what: str
    """For people: 'nnU-Net v1 checkpoint, as STU-Net was released'."""
    tensors: dict[str, torch.Tensor]
    """In the file's own names; those of an archive are still in the file, so copy them before it may change."""
    facts: WeightFacts
    facts_problem: str = ""
    """Why the facts could not be read, where that was to be reported and not to be raised."""
    trainer_name: str | None = None
    optimizer_bytes: int = 0
    sidecar: Sidecar | None = None
    description: WeightDescription | None = None


def open_weights(path: Path, *, sidecar: Path | None = None, is_lenient: bool = False) -> OpenedWeights:
    """Open a file of weights as data.

    Args:
        path: the file.
        sidecar: the side-car of a `.model`; None takes the one beside it, if there is one.
        is_lenient: report settings or a JSON that cannot be read instead of raising.

    Raises:
        ModelError: missing, damaged, hostile, or of no known form.
    """
    if not path.is_file():
        raise ModelError(f"file of weights '{path.name}' not found", where=path.parent)
    with path.open("rb") as stream:
        start = stream.read(32)
    if start.startswith(_ZIP):
        return _open_archive(path, sidecar, is_lenient=is_lenient)
    if sidecar is not None:
        raise _explain_needless(path)
    if looks_like_safetensors(path):
        return _open_safetensors(path, is_lenient)
    found = next((what for magic, what in _OTHERS if start.startswith(magic)), "empty" if not start else "unknown")
    raise ModelError(
        f"'{path.name}' is no file of weights: it is {found}",
        where=path.parent,
        hint="give a .model or .pth of torch.save, or a .safetensors",
    )


def _open_archive(path: Path, sidecar: Path | None, *, is_lenient: bool) -> OpenedWeights:
    content = load_archive(path)
    if not isinstance(content, Mapping):
        raise ModelError(f"'{path.name}' is no file of weights: it holds a {type(content).__name__}", where=path.parent)
    if "network_weights" in content:
        if sidecar is not None:
            raise _explain_needless(path)
        return _open_checkpoint(path, content, is_lenient)
    found = sidecar or find_sidecar(path)
    # Never lenient: a side-car that cannot be read as data is either damaged or an attack.
    side = read_sidecar(found) if found is not None else None
    is_bare = "state_dict" not in content
    what = "a bare state dict" if is_bare else "a checkpoint of nnU-Net v1, as STU-Net was released"
    facts = side.facts if side is not None else WeightFacts()
    epoch = content.get("epoch")
    if type(epoch) is int and 0 <= epoch <= 1_000_000:
        facts = dataclasses.replace(facts, num_epochs=epoch)
    return OpenedWeights(
        path=path,
        form="published",
        what=what,
        tensors=require_plain_tensors(content if is_bare else content["state_dict"], path),
        facts=facts,
        trainer_name=side.trainer_name if side is not None else None,
        optimizer_bytes=_measure_optimizer(content.get("optimizer_state_dict")),
        sidecar=side,
    )


def _open_checkpoint(path: Path, content: Mapping[str, Any], is_lenient: bool) -> OpenedWeights:
    tensors = require_plain_tensors(content["network_weights"], path)
    facts, problem = _attempt(lambda: parse_arguments(content, path), is_lenient)
    trainer = content.get("trainer_name")
    if "stu" in content:
        what = "a checkpoint of stu train"
    elif any("seg_outputs." in name for name in tensors):
        what = "a checkpoint of the STU-Net fork of nnU-Net v2"
    else:
        what = "a checkpoint of nnU-Net v2"
    return OpenedWeights(
        path=path,
        form="checkpoint",
        what=what,
        tensors=tensors,
        facts=facts or WeightFacts(),
        facts_problem=problem,
        trainer_name=trainer if isinstance(trainer, str) else None,
        optimizer_bytes=_measure_optimizer(content.get("optimizer_state")),
    )


def _open_safetensors(path: Path, is_lenient: bool) -> OpenedWeights:
    beside = find_description_path(path)
    described, problem = _attempt(lambda: _read_own_description(path), is_lenient) if beside.is_file() else (None, "")
    return OpenedWeights(
        path=path,
        form="safetensors",
        what="safetensors",
        tensors=require_plain_tensors(read_safetensors(path), path),
        facts=described.facts if described is not None else WeightFacts(),
        facts_problem=problem,
        description=described,
    )


def _read_own_description(path: Path) -> WeightDescription:
    described = read_description(find_description_path(path))
    if hash_file(path) != described.sha256:
        raise ModelError(
            f"'{path.name}' is not the file that '{find_description_path(path).name}' describes, its hash differs",
            where=path.parent,
            hint="copy both files again",
        )
    return described


def _attempt(read: Callable[[], Result], is_lenient: bool) -> tuple[Result | None, str]:
    try:
        return read(), ""
    except ModelError as error:
        if not is_lenient:
            raise
        return None, error.problem


def _measure_optimizer(state: object) -> int:
    """Add up the tensors of an optimizer's state, in bytes, without reading them."""
    entries = state.get("state") if isinstance(state, Mapping) else None
    if not isinstance(entries, Mapping):
        return 0
    tensors = [
        value
        for entry in entries.values()
        if isinstance(entry, Mapping)
        for value in entry.values()
        if isinstance(value, torch.Tensor)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _explain_needless(path: Path) -> ModelError:
    return ModelError(
        f"'{path.name}' takes no side-car, it is no released .model",
        where=path.parent,
        hint=f"stu weights inspect {shlex.quote(str(path))}",
    )
