"""Look into a file of weights: what it is, what is known of it, and whether it can be used.

Reads: a file of weights and what lies beside it. Writes nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.weights import RecognisedNetwork, from_published, recognise_scale
from stu_pipeline.transfer.files.facts import check_facts
from stu_pipeline.transfer.files.foreign import find_foreign_network
from stu_pipeline.transfer.files.opening import OpenedWeights, open_weights
from stu_pipeline.transfer.files.sidecar import check_sidecar
from stu_pipeline.transfer.files.tensors import WEIGHT_TYPES, identify_tensors
from stu_pipeline.transfer.inspection.layers import BrokenTensor, LayerStatistics, find_broken, measure_layers
from stu_pipeline.transfer.weight_file import WeightFacts, WeightForm, count_axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What is in a file of weights."""

    path: Path
    form: WeightForm
    what: str
    """The kind of file, for people."""
    file_bytes: int
    trainer_name: str | None
    network: RecognisedNetwork | None
    """None for another network, an unknown scale, or tensors that do not fit together."""
    num_axes: int | None
    identity: str | None
    """As in `WeightFile`; None where the network is not recognised."""
    num_tensors: int
    num_parameters: int
    tensor_bytes: int
    types: tuple[str, ...]
    """'float32', ...: every type among the tensors."""
    optimizer_bytes: int
    """What momentum and the like take up."""
    facts: WeightFacts
    sidecar: Path | None
    problems: tuple[str, ...]
    """Why the file cannot be used; empty where it can."""
    broken: tuple[BrokenTensor, ...]
    layers: tuple[LayerStatistics, ...]

    @property
    def is_usable(self) -> bool:
        """Tell whether `stu plan --pretrained` and the others of `stu weights` take the file."""
        return not self.problems

    @property
    def looks_untrained(self) -> bool:
        """Tell whether every normalisation is exactly as it began, which no training leaves so."""
        norms = [layer for layer in self.layers if layer.kind == "normalisation"]
        return bool(norms) and all(layer.is_fresh for layer in norms)


def inspect_weights(path: Path, *, sidecar: Path | None = None) -> Inspection:
    """Look into a file of weights. Nothing in it is run; what cannot be used is reported, not refused.

    Args:
        path: `.model`, `.pth` or `.safetensors`.
        sidecar: the side-car of a `.model`; None takes the one beside it, if there is one.

    Raises:
        ModelError: the file, or its side-car, cannot be read as data.
    """
    opened = open_weights(path, sidecar=sidecar, is_lenient=True)
    network, problems = _recognise(opened)
    num_axes = count_axes(opened.tensors) if network is not None else None
    facts, more = _judge_facts(opened, network, num_axes)
    broken = find_broken(opened.tensors)
    problems += more
    problems += [f"'{tensor.name}' holds {tensor.num_wrong} values that are NaN or infinite" for tensor in broken[:5]]
    wrong = [name for name, tensor in opened.tensors.items() if tensor.dtype not in WEIGHT_TYPES]
    if network is not None and wrong:
        problems.append(f"'{wrong[0]}' is stored as {opened.tensors[wrong[0]].dtype}")
    tensors = opened.tensors.values()
    identity = identify_tensors(from_published(opened.tensors)) if network is not None else None
    if identity is not None and opened.description is not None and opened.description.identity != identity:
        problems.append("the JSON beside it describes other weights")
    return Inspection(
        path=path,
        form=opened.form,
        what=opened.what,
        file_bytes=path.stat().st_size,
        trainer_name=opened.trainer_name,
        network=network,
        num_axes=num_axes,
        identity=identity,
        num_tensors=len(opened.tensors),
        num_parameters=sum(tensor.numel() for tensor in tensors),
        tensor_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        types=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})),
        optimizer_bytes=opened.optimizer_bytes,
        facts=facts,
        sidecar=opened.sidecar.path if opened.sidecar is not None else None,
        problems=tuple(problems),
        broken=broken,
        layers=measure_layers(opened.tensors),
    )


def _recognise(opened: OpenedWeights) -> tuple[RecognisedNetwork | None, list[str]]:
    if foreign := find_foreign_network(opened.tensors):
        return None, [f"no STU-Net: {foreign}"]
    try:
        return recognise_scale(opened.tensors), []
    except ModelError as error:
        return None, [error.problem, *error.details]


def _judge_facts(
    opened: OpenedWeights, network: RecognisedNetwork | None, num_axes: int | None
) -> tuple[WeightFacts, list[str]]:
    """Return the facts, where they are about these weights, and what speaks against them."""
    problems = [opened.facts_problem] if opened.facts_problem else []
    if network is None or num_axes is None:
        return opened.facts, problems
    wrong = check_facts(opened.facts, network, num_axes)
    if opened.sidecar is not None:
        wrong = check_sidecar(opened.sidecar, network) or wrong
    if not wrong:
        return opened.facts, problems
    unknown = dataclasses.replace(WeightFacts(), num_epochs=opened.facts.num_epochs)
    return unknown, problems + [f"{opened.facts.source} belongs to other weights: {line}" for line in wrong]
