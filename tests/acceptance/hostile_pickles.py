"""Pickles put together by hand, so that they can name anything, importable here or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Name:
    """A function or class by module and name."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """What a function returns."""

    function: Any
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Build:
    """An object that is given a state."""

    value: Any
    state: Any


@dataclass(frozen=True)
class Persistent:
    """What torch looks up by an id: a storage."""

    identity: Any


@dataclass(frozen=True)
class Raw:
    """Instructions as they are."""

    data: bytes


def assemble(value: Any) -> bytes:
    """Return a pickle of protocol 2."""
    return b"\x80\x02" + push(value) + b"."


def push(value: Any) -> bytes:
    """Return the instructions that make a value."""
    if isinstance(value, Raw | Name):
        return value.data if isinstance(value, Raw) else f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return push(value.function) + push(tuple(value.arguments)) + b"R"
    if isinstance(value, Build):
        return push(value.value) + push(value.state) + b"b"
    if isinstance(value, Persistent):
        return push(value.identity) + b"Q"
    if isinstance(value, (tuple, list, dict)):
        return _push_container(value)
    return _push_plain(value)


def _push_container(value: Any) -> bytes:
    if isinstance(value, tuple):
        return b"(" + b"".join(map(push, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(push, value)) + b"e"
    return b"}(" + b"".join(push(key) + push(item) for key, item in value.items()) + b"u"


def _push_plain(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, bytes):
        return push(Call(Name("_codecs", "encode"), (value.decode("latin-1"), "latin1")))
    data = str(value).encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def list_payloads(canary: Path) -> dict[str, Call]:
    """List what would make the file `canary`, or empty its folder, or do worse, were any of it run."""
    touch, program, path = f"touch {canary}", f"open({str(canary)!r}, 'w').close()", str(canary)
    make = assemble(Call(Name("os", "mkdir"), (path,)))
    get_system = Call(Name("builtins", "getattr"), (Call(Name("importlib", "import_module"), ("os",)), "system"))
    calls = {
        "os.system": (touch,), "posix.system": (touch,), "os.popen": (touch,), "os.mkdir": (path,),
        "subprocess.Popen": (["touch", path],), "subprocess.getoutput": (touch,), "subprocess.check_output":
        (["touch", path],), "builtins.eval": (f"__import__('os').mkdir({path!r})",), "builtins.exec": (program,),
        "__builtin__.eval": (f"__import__('os').mkdir({path!r})",), "builtins.__import__": ("this",),
        "builtins.compile": (program, "x", "exec"), "builtins.open": (path, "w"), "io.open": (path, "w"),
        "runpy.run_path": (path,), "runpy._run_code": (program,), "importlib.import_module": ("this",),
        "pickle.loads": (make,), "_pickle.loads": (make,), "marshal.loads": (b"N",), "types.FunctionType": (),
        "code.interact": (), "pty.spawn": (["touch", path],), "shutil.rmtree": (str(canary.parent / "kept"),),
        "shutil.copyfile": ("/etc/hostname", path), "pathlib.Path.write_text": (), "pathlib.PosixPath": (path,),
        "webbrowser.open": ("file:///",), "urllib.request.urlopen": (f"file://{path}",),
        "socket.create_connection": (("127.0.0.1", 9),), "ctypes.CDLL": ("libc.so.6",),
        "numpy.load": (path,), "numpy.save": (path, 0), "numpy.fromfile": (path,), "numpy.memmap": (path, "f4", "w+"),
        "numpy.distutils.exec_command.exec_command": (touch,), "numpy.__builtins__": (), "numpy.f2py.run_main": (),
        "torch.load": (path,), "torch.save": (0, path), "torch.hub.load": ("a/b", "c"), "torch.jit.load": (path,),
        "torch.utils.collect_env.run": (touch,), "torch.distributed.rpc.init_rpc": ("x",),
        "torch._dynamo.compiled_autograd.compile": (), "torch._inductor.codecache.PyCodeCache.load": (program,),
        "torch.serialization.add_safe_globals": ([],), "torch.ops.load_library": (path,),
        "multiprocessing.util.spawnv_passfds": (b"/usr/bin/touch", ["touch", path], ()),
        "logging.config.listen": (9,), "pandas.read_csv": (path,), "joblib.load": (path,),
        "dill._dill._create_function": (), "cloudpickle.cloudpickle._make_function": (), "copyreg._reconstructor": (),
        "operator.attrgetter": ("__class__",), "operator.methodcaller": ("system", touch), "builtins.getattr": (1, "a"),
        "builtins.bytearray": (10**12,), "collections.Counter": ("aa",), "builtins.set": ([1],),
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer": (),
        "stu_pipeline.storage.write_text": (path, "x"),
        "torch._tensor._rebuild_from_type_v2": (), "torch._utils._rebuild_wrapper_subclass": (),
    }  # fmt: skip
    payloads = {name: Call(Name(*name.rsplit(".", 1)), tuple(arguments)) for name, arguments in calls.items()}
    return payloads | {
        "getattr chain": Call(get_system, (touch,)),
        "functools.partial": Call(Call(Name("functools", "partial"), (Name("os", "system"), touch))),
        "dotted name": Call(Name("os", "path.os.system"), (touch,)),
        "BUILD of a class": Call(Name("builtins", "list"), (Build(Name("os", "system"), {"a": 1}),)),
    }
