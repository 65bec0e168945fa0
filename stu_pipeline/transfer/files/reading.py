"""Read files of weights for use: safely, completely, and with what is known of their training.

Reads: a released `.model` with its side-car, `.pth` of nnU-Net v2, of the STU-Net fork and of ours, `.safetensors`
with its JSON.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.layout import build_layout, parameter_shapes
from stu_pipeline.networks.scales import NUM_STAGES, SCALES
from stu_pipeline.networks.weights import RecognisedNetwork, from_published, recognise_scale
from stu_pipeline.transfer.files.facts import join_facts, require_fitting_facts
from stu_pipeline.transfer.files.opening import OpenedWeights, open_weights
from stu_pipeline.transfer.files.sidecar import require_own_sidecar
from stu_pipeline.transfer.files.tensors import identify_tensors, require_finite_tensors, require_stunet_names
from stu_pipeline.transfer.weight_file import WeightFacts, WeightFile, count_axes


def read_weight_file(path: Path, *, sidecar: Path | None = None, declared: WeightFacts | None = None) -> WeightFile:
    """Read the weights of an STU-Net. Nothing in the file is run, and only the network's tensors are kept.

    Args:
        path: `.model`, `.pth` or `.safetensors`; what it is, its content says.
        sidecar: the side-car of a `.model`; None takes `<path>.pkl` where it is there.
        declared: what the user says about the weights; it fills what the file does not tell.

    Raises:
        ModelError: missing, damaged, tampered with, hostile, not finite, of another network or of no known scale;
            a side-car or a declaration that contradicts the weights.
    """
    opened = open_weights(path, sidecar=sidecar)
    require_stunet_names(opened.tensors, path)
    try:
        network = recognise_scale(opened.tensors)
    except ModelError as error:
        hint = f"stu weights inspect {shlex.quote(str(path))}"
        raise ModelError(error.problem, where=path, hint=hint, details=error.details) from error
    if opened.sidecar is not None:
        require_own_sidecar(opened.sidecar, network, path)
    facts = join_facts(opened.facts, declared, path)
    tensors = _copy_tensors(opened, network)
    require_finite_tensors(tensors, path)
    identity = identify_tensors(tensors)
    weights = WeightFile(path=path, form=opened.form, identity=identity, network=network, tensors=tensors, facts=facts)
    require_fitting_facts(facts, network, weights.num_axes, path)
    _require_own_description(opened, weights)
    return weights


def _copy_tensors(opened: OpenedWeights, network: RecognisedNetwork) -> dict[str, torch.Tensor]:
    """Copy the tensors: those of an archive are still in the file, and would change or end with it."""
    tensors = from_published(opened.tensors)
    if opened.form != "safetensors":
        return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    # These files have an order of their own; the network's is that of all others.
    spec, num_axes = SCALES[network.scale], count_axes(tensors)
    layout = build_layout(
        [[1] * num_axes] * NUM_STAGES, spec.features_per_stage, spec.n_blocks_per_stage, f"{num_axes}d"
    )
    names = (name for name, _ in parameter_shapes(layout, network.num_input_channels, network.num_classes))
    return {name: tensors[name] for name in names}


def _require_own_description(opened: OpenedWeights, weights: WeightFile) -> None:
    """Refuse a JSON that says other things than the tensors: its hash fits, so someone wrote it so."""
    described = opened.description
    if described is None:
        return
    found = (weights.identity, weights.network, weights.num_axes)
    if found != (described.identity, described.network, described.num_axes):
        raise ModelError(
            f"the JSON beside '{weights.path.name}' describes other weights: scale {described.network.scale}, "
            f"{described.network.num_input_channels} channels, {described.network.num_classes} outputs",
            where=weights.path.parent,
            hint="export the weights again: stu weights export",
        )
