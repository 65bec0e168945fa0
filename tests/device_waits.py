"""Finding, without a GPU, what would make the host wait for one."""

from torch.utils._python_dispatch import TorchDispatchMode

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "index", "index_put", "index_put_", "_unique2")


class RefuseWaiting(TorchDispatchMode):
    """Fails on reading a value of a tensor and on results whose size depends on values, indexing by a mask included."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in WAITS:
            raise RuntimeError(f"'{func}' waits for the device")
        return func(*args, **(kwargs or {}))
