"""How a network runs fastest where it is: types, memory layout, normalisation and threads on the CPU.

Everything here computes what the plain network computes, up to rounding; `prepare_network` says how much.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import nn

from stu_pipeline.inference.fast_layers import FloatPool, OneDnnConv, SampleNorm

_CHUNK_BYTES = 1 << 24
"""Of the largest buffer of the samples one thread works on at once. Small samples share one reading of the weights;
buffers of more than 32 MB would be asked from and given back to the system at every layer."""
_MAX_WORKERS = 8
MIN_BF16_MAP_VOXELS = 8
"""Deepest feature map for which the forward pass in bfloat16 is trusted on the CPU: it was right and the same in every
repeat at 8 voxels, with one thread and with two; at 2 voxels normalisation itself has too few numbers."""
_FLOAT_NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.GroupNorm, nn.LayerNorm,
)  # fmt: skip
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def prepare_network(
    network: nn.Module, *, device: torch.device, autocast: torch.dtype | None, patch_voxels: Sequence[int]
) -> nn.Module:
    """Return the fastest safe form of a network for inference.

    On the CPU: instance normalisation by a kernel that is several times faster, convolutions always by oneDNN (for
    a single sample PyTorch often takes a slow way), and a batch divided among threads instead of each layer. With
    bfloat16 also weights of that type, normalisation parameters excepted, in channels-last order. Elsewhere it is the
    network itself, in evaluation mode.

    The result is used as the network is: float32 in, inside `torch.autocast` for 16 bits and outside for float32. Its
    weights are those of now; prepare again after loading others. In float32 logits differ from the plain network's
    by less than 1e-4 of their range; in bfloat16 they are as far from float32 as PyTorch's autocast.

    Memory: float32 weights are shared with `network`, those in bfloat16 add half of them. A batch needs no more than
    the plain network's.

    Args:
        network: maps `(b, c, *patch)` to `(b, outputs, *patch)`, one tensor.
        device: where it runs.
        autocast: the 16-bit type it will be run in, or None.
        patch_voxels: what it will be given.
    """
    network.eval()
    if device.type != "cpu":
        return network
    voxels = math.prod(patch_voxels)
    in_bf16 = _build_bf16_copy(network) if autocast == torch.bfloat16 else None
    return _CpuNetwork(_build_float32_copy(network), in_bf16, voxels)


class _CpuNetwork(nn.Module):
    """A network in the types it is asked for; batches are divided among threads."""

    def __init__(self, in_float32: nn.Module, in_bf16: nn.Module | None, patch_voxels: int) -> None:
        super().__init__()
        self.in_float32 = in_float32
        self.in_bf16 = in_bf16
        # Two tensors of the first layer's width and the patch's size are put together at the end of a U-Net.
        self._largest_elements = 2 * patch_voxels * _find_width(in_float32)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(b, outputs, *patch)` of `(b, c, *patch)`, without gradients."""
        is_bf16 = self.in_bf16 is not None and torch.is_autocast_enabled("cpu")
        run = self._run_bf16 if is_bf16 else self._run_float32
        largest = max(1, _CHUNK_BYTES // (self._largest_elements * (2 if is_bf16 else 4)))
        threads = torch.get_num_threads()
        workers, chunk = divide_batch(len(x), largest, threads)
        if len(x) <= chunk:
            return run(x)
        if workers == 1:
            return torch.cat([run(part) for part in _cut(x, chunk)])
        is_inference = torch.is_inference_mode_enabled()

        def run_part(part: torch.Tensor) -> torch.Tensor:
            # The modes of the caller's thread are unknown to this one.
            with torch.inference_mode(is_inference), torch.no_grad():
                return run(part)

        return torch.cat(list(_start_pool(workers, threads // workers).map(run_part, _cut(x, chunk))))

    def _run_float32(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            output: torch.Tensor = self.in_float32(x)
        return output

    def _run_bf16(self, x: torch.Tensor) -> torch.Tensor:
        in_bf16 = self.in_bf16
        if in_bf16 is not None:
            try:
                with torch.autocast("cpu", enabled=False):
                    output: torch.Tensor = in_bf16(x.to(torch.bfloat16, memory_format=_LAYOUTS[x.ndim]))
                return output
            except NotImplementedError:
                # A layer that PyTorch computes on the CPU in float32 only; slower, and as right.
                self.in_bf16 = None
        return self._run_float32(x)


def cpu_computes_bf16() -> bool:
    """Tell whether the CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); emulation would be slower."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in checks if hasattr(torch.cpu, name))


def divide_batch(samples: int, largest: int, threads: int) -> tuple[int, int]:
    """Choose how many workers share a batch, and how many samples each takes at a time.

    >>> divide_batch(8, 2, 2)
    (2, 2)
    >>> divide_batch(1, 2, 2)
    (1, 2)
    """
    workers = min(samples, threads, _MAX_WORKERS)
    if workers <= 1:
        return 1, largest
    return workers, min(largest, math.ceil(samples / workers))


def _find_width(network: nn.Module) -> int:
    """Return the channels of the first convolution, 1 where there is none."""
    convs = (module for module in network.modules() if isinstance(module, OneDnnConv | nn.Conv2d | nn.Conv3d))
    return next((len(conv.weight) for conv in convs), 1)


@cache
def _start_pool(workers: int, threads_each: int) -> ThreadPoolExecutor:
    """Start threads that compute with few threads each; the caller's own number stays."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="network")
    before = torch.get_num_threads()
    everyone = threading.Barrier(workers)

    def settle(_: int) -> None:
        everyone.wait()  # so that no thread takes two of these
        torch.get_num_threads()  # its first call in a thread would undo what is set before it
        torch.set_num_threads(threads_each)

    list(pool.map(settle, range(workers)))
    # The number is each thread's own, but the last one set is what later threads begin with.
    torch.set_num_threads(before)
    return pool


def _build_float32_copy(network: nn.Module) -> nn.Module:
    return _swap_layers(_copy_network(network, lambda _, tensor: tensor))


def _build_bf16_copy(network: nn.Module) -> nn.Module:
    return _swap_layers(_copy_network(network, _to_bf16))


def _to_bf16(module: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(module, _FLOAT_NORMS) or not tensor.is_floating_point():
        return tensor
    layout = _LAYOUTS.get(tensor.ndim, torch.preserve_format)
    converted = tensor.detach().to(torch.bfloat16, memory_format=layout)
    return nn.Parameter(converted, requires_grad=False) if isinstance(tensor, nn.Parameter) else converted


def _copy_network(network: nn.Module, convert: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> nn.Module:
    """Copy a network with its tensors converted, or shared where the conversion returns them."""
    memo: dict[int, object] = {}
    for module in network.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if id(tensor) not in memo:
                memo[id(tensor)] = convert(module, tensor)
    return copy.deepcopy(network, memo)


def _swap_layers(network: nn.Module) -> nn.Module:
    """Replace layers inside a network by faster ones of the same meaning, with the same tensors under the same keys."""
    replacement = _find_replacement(network)
    if replacement is not None:
        return replacement
    done: dict[nn.Module, nn.Module] = {}
    for module in list(network.modules()):
        for name, child in module.named_children():
            swapped = done.get(child) or _find_replacement(child)
            if swapped is not None:
                done[child] = swapped
                setattr(module, name, swapped)
    return network


def _find_replacement(module: nn.Module) -> nn.Module | None:
    # By exact type: a subclass may compute something else.
    if type(module) in (nn.Conv2d, nn.Conv3d) and isinstance(module, nn.Conv2d | nn.Conv3d):
        return OneDnnConv(module) if OneDnnConv.fits(module) else None
    if type(module) in (nn.InstanceNorm2d, nn.InstanceNorm3d) and isinstance(
        module, nn.InstanceNorm2d | nn.InstanceNorm3d
    ):
        return SampleNorm(module) if SampleNorm.fits(module) else None
    return FloatPool(module) if FloatPool.fits(module) else None


def _cut(x: torch.Tensor, size: int) -> list[torch.Tensor]:
    return [x[start : start + size] for start in range(0, len(x), size)]
