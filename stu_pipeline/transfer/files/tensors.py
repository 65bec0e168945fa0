"""The tensors of a file of weights: that they are plain, finite and of an STU-Net, and what identifies them."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Mapping
from pathlib import Path

import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.weights import to_published
from stu_pipeline.transfer.files.foreign import find_foreign_network

WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_HINT = "use another file of weights"


def require_plain_tensors(content: object, path: Path) -> dict[str, torch.Tensor]:
    """Return what a file holds as its weights, where it is tensors of numbers by name, of no more than its size.

    Raises:
        ModelError: it is anything else.
    """
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"'{path.name}' holds no network weights", where=path.parent, hint=_HINT)
    num_bytes = 0
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ModelError(
                f"'{path.name}' holds a {type(tensor).__name__} at '{str(name)[:100]}', expected a tensor",
                where=path.parent,
                hint=_HINT,
            )
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ModelError(f"tensor '{name[:100]}' of '{path.name}' is no plain one", where=path.parent, hint=_HINT)
        num_bytes += tensor.numel() * tensor.element_size()
        # A few bytes may say that they are a tensor of any size.
        if num_bytes > path.stat().st_size:
            raise ModelError(
                f"'{path.name}' holds tensors that are larger than the file", where=path.parent, hint=_HINT
            )
    return dict(content)


def require_stunet_names(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse weights of another network, and say of which.

    Raises:
        ModelError: a name is not one of an STU-Net.
    """
    if foreign := find_foreign_network(tensors):
        hint = f"stu weights inspect {shlex.quote(str(path))}"
        raise ModelError(f"'{path.name}' is no STU-Net: {foreign}", where=path.parent, hint=hint)


def require_finite_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse weights that are NaN or infinite, and types that weights do not have.

    Raises:
        ModelError: naming the first tensor, and how many values of it are wrong. A bad file, whoever made it, so it
            is not the error of numbers that we computed.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHT_TYPES:
            raise ModelError(f"'{path.name}' holds '{name}' as {tensor.dtype}, expected numbers", where=path.parent)
        if num_wrong := count_non_finite(tensor):
            raise ModelError(
                f"weights '{name}' hold {num_wrong} of {tensor.numel()} values that are NaN or infinite",
                where=path,
                hint=f"stu weights inspect {shlex.quote(str(path))}",
            )


def count_non_finite(tensor: torch.Tensor) -> int:
    """Count the values that are NaN or infinite; 0 for an empty tensor."""
    if not tensor.is_floating_point() or math.isfinite(float(tensor.sum(dtype=torch.float64))):
        return 0
    return int((~torch.isfinite(tensor)).sum())


def identify_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a SHA-256 over names, types, shapes and values, which is the same in every form of file.

    Args:
        tensors: in our names or in the published ones, in any order.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(to_published(tensors).items()):
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
