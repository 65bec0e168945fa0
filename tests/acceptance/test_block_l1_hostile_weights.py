"""Block L1, files of weights: they are data. Whatever is put into one, or into its side-car, none of it runs."""

from __future__ import annotations

import io
import pickle
import shutil
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from stu_pipeline.cli import run
from stu_pipeline.errors import ModelError
from stu_pipeline.transfer.files.reading import read_weight_file
from tests.acceptance.hostile_pickles import Build, Call, Name, Persistent, Raw, assemble, list_payloads, push
from tests.published_files import (
    make_published_plans,
    shrink_scale,
    write_fork_checkpoint,
    write_published_model,
    write_published_sidecar,
)

MODEL_PROBLEM = 4
PAYLOADS = sorted(list_payloads(Path("canary")))
PLACES = ["state_dict", "optimizer_state_dict", "plot_stuff", "epoch", "more", "key", "array", "scalar", "state"]
CONTAINERS = ["pickle", "legacy", "tar", "second data.pkl", "data.pkl of another folder", "cut", "prefix", "nested",
              "compressed", "encrypted"]  # fmt: skip


def sample(first, second, step=3):
    """Pair every third of the first with one of the second; all other pairs are slow."""
    pairs = [(one, other, index % step == 0 and index // step % len(second) == number)
             for index, one in enumerate(first) for number, other in enumerate(second)]  # fmt: skip
    return [pytest.param(one, other, marks=() if is_fast else pytest.mark.slow) for one, other, is_fast in pairs]


class Place:
    """A sound released file, and what watches over it."""

    def __init__(self, folder: Path, sound: Path) -> None:
        self.folder = folder
        self.path = folder / "small_ep4k.model"
        self.canary = folder / "canary"
        (folder / "kept").mkdir()
        (folder / "kept" / "file").write_text("here")
        for source in sound.iterdir():
            shutil.copyfile(source, folder / source.name)

    def read_pickle(self) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))

    def rewrite(self, pickled: bytes) -> None:
        """Put another pickle into the archive, with right checksums."""
        with zipfile.ZipFile(self.path) as archive:
            content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED) as archive:
            for name, data in content.items():
                archive.writestr(name, pickled if name.endswith("/data.pkl") else data)

    def add(self, key: object, value: object) -> None:
        """Set an entry of the dictionary in the archive, after everything else was loaded."""
        self.rewrite(self.read_pickle()[:-1] + push(key) + push(value) + b"s.")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with a sound released file and its side-car, of a scale S that is small."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        shrink_scale(patch)
        write_published_model(folder / "small_ep4k.model", momentum=False)
    return folder


@pytest.fixture
def place(sound, tmp_path, monkeypatch):
    shrink_scale(monkeypatch)
    return Place(tmp_path, sound)


def require_refused(place, capfd, *, path=None):
    path = path or place.path
    with pytest.raises(ModelError):
        read_weight_file(path)
    assert run(["weights", "inspect", str(path)]) == MODEL_PROBLEM
    out, error = capfd.readouterr()
    require_untouched(place)
    assert "Traceback" not in error and "error: " in error and out == "", error
    assert "Please use" not in error  # torch's own advice is how to run it
    return error


def require_untouched(place):
    assert not place.canary.exists(), "code of the file was run"
    assert (place.folder / "kept" / "file").read_text() == "here"
    assert "this" not in sys.modules, "a module was imported because a file named it"


def test_the_files_are_sound_before_anything_is_put_into_them(place, capfd):
    place.rewrite(place.read_pickle())
    assert read_weight_file(place.path).facts.strides is not None
    place.add("more", {"a": [1, None, True, "text", 0.5 if False else 2]})
    assert run(["weights", "inspect", str(place.path)]) == 0
    assert "can be used" in capfd.readouterr().out


@pytest.mark.parametrize(("payload", "where"), sample(PAYLOADS, PLACES))
def test_code_in_a_file_of_weights_is_refused_and_not_run(place, capfd, payload, where):
    call = list_payloads(place.canary)[payload]
    dtype = Build(Call(Name("numpy", "dtype"), ("O8", False, True)), (3, "|", None, None, None, -1, -1, 63))
    empty = Call(Name("numpy.core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (0,), b"b"))
    values = {
        "state_dict": {"conv_blocks_context.0.0.conv1.weight": call},
        "optimizer_state_dict": {"state": {0: {"momentum_buffer": call}}},
        "plot_stuff": ([call], [], [], []),
        "array": Build(empty, (1, (1,), dtype, False, [call])),
        "scalar": Call(Name("numpy.core.multiarray", "scalar"), (dtype, call)),
        "state": Build(Call(Name("collections", "OrderedDict")), {"__class__": call}),
    }
    if where == "key":
        place.add(call, 1)
    else:
        place.add(where if where in ("state_dict", "optimizer_state_dict", "plot_stuff") else "more",
                  values.get(where, call))  # fmt: skip
    assert "holds more than weights" in require_refused(place, capfd)


@pytest.mark.parametrize("payload", ["os.mkdir", pytest.param("builtins.exec", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_code_in_another_container_is_refused_and_not_run(place, capfd, payload, kind):
    spoil_container(place, assemble({"state_dict": list_payloads(place.canary)[payload]}), kind)
    require_refused(place, capfd)


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".json", ""])
def test_the_ending_of_a_file_opens_no_door(place, capfd, ending):
    place.add("more", list_payloads(place.canary)["os.mkdir"])
    require_refused(place, capfd, path=place.path.rename(place.path.with_suffix(ending)))


def spoil_container(place, pickled, kind):
    path = place.path
    if kind == "pickle":
        path.write_bytes(pickled)
    elif kind == "legacy":
        parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts) + pickled + pickle.dumps([], 2))
    elif kind == "tar":
        with tarfile.open(path, "w") as archive:
            for name in ("sys_info", "pickle", "storages", "tensors"):
                member = tarfile.TarInfo(name)
                member.size = len(pickled)
                archive.addfile(member, io.BytesIO(pickled))
    elif kind == "second data.pkl":
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(next(name for name in archive.namelist() if name.endswith("data.pkl")), pickled)
    elif kind == "data.pkl of another folder":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("other/data.pkl", pickled)
    elif kind == "cut":
        place.rewrite(pickled)
        path.write_bytes(path.read_bytes()[:-3000])
    elif kind == "prefix":
        place.rewrite(pickled)
        path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    elif kind == "nested":
        place.rewrite(pickled)
        data = path.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)
    else:
        recompress(path, pickled, is_encrypted=kind == "encrypted")


def recompress(path, pickled, *, is_encrypted):
    method = zipfile.ZIP_STORED if is_encrypted else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
    if is_encrypted:
        data = bytearray(path.read_bytes())
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(data)


@pytest.mark.parametrize(("payload", "where"), sample(PAYLOADS, ["all", "plans", "init", "array", "key", "stage"]))
def test_code_in_a_side_car_is_refused_and_not_run(place, capfd, payload, where):
    call = list_payloads(place.canary)[payload]
    array = Call(Name("numpy.core.multiarray", "_reconstruct"), (Name("numpy", "ndarray"), (0,), b"b"))
    content = {
        "all": call,
        "plans": {"name": "STUNetTrainer_small", "init": (), "plans": call},
        "init": {"name": "STUNetTrainer_small", "init": (call,), "plans": {}},
        "array": {"plans": {"a": Build(array, (1, (1,), Call(Name("numpy", "dtype"), ("O8",)), False, [call]))}},
        "key": {Raw(push(call)): 1},
        "stage": {"name": "STUNetTrainer_small", "plans": {"plans_per_stage": {0: {"patch_size": call}}}},
    }[where]
    sidecar = place.path.with_name(f"{place.path.name}.pkl")
    sidecar.write_bytes(assemble(content))
    assert "side-car 'small_ep4k.model.pkl' is damaged or none" in require_refused(place, capfd)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_in_a_side_car_of_any_protocol_is_refused(place, capfd, protocol):
    class Payload:
        def __reduce__(self):
            return place.canary.mkdir, ()

    sidecar = place.path.with_name(f"{place.path.name}.pkl")
    sidecar.write_bytes(pickle.dumps({"plans": make_published_plans(), "more": Payload()}, protocol))
    require_refused(place, capfd)


def test_code_in_the_settings_of_a_checkpoint_is_refused(place, capfd):
    write_fork_checkpoint(place.path)
    assert b"init_args" in place.read_pickle()
    place.add("init_args", {"plans": list_payloads(place.canary)["os.mkdir"]})
    require_refused(place, capfd)


@pytest.mark.parametrize("bomb", [
    b"\x80\x02]r\xff\xff\xff\x7f.", b"]p2000000000\n.", b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0f.",
    b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00.", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0f]\x94.",
    b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".", b"(" * 10_000,
    b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    b"I" + b"9" * 10_000 + b"\n.", b"\x80\x02]" + b"q\x00h\x00h\x00\x86" * 60 + b".",
], ids=lambda bomb: bomb[:12].hex())  # fmt: skip
def test_side_cars_that_ask_for_memory_are_refused(place, capfd, bomb):
    place.path.with_name(f"{place.path.name}.pkl").write_bytes(bomb)
    tracemalloc.start()
    require_refused(place, capfd)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26


def make_tensor(
    numel=4, *, offset=0, size=(4,), stride=(1,), key="0", kind="FloatStorage", function="_rebuild_tensor_v2"
):
    storage = Persistent(("storage", Name("torch", kind), key, "cpu", numel))
    order = Call(Name("collections", "OrderedDict"))
    return Call(Name("torch._utils", function), (storage, offset, size, stride, False, order))


@pytest.mark.parametrize("tensor", [
    make_tensor(1 << 62), make_tensor(1 << 40), make_tensor(-1), make_tensor(offset=-4), make_tensor(offset=1 << 60),
    make_tensor(size=(1 << 40,), stride=(0,)), make_tensor(size=(1 << 40,)), make_tensor(stride=(-1,)),
    make_tensor(size=(-4,)), make_tensor(size=(1 << 62, 1 << 62), stride=(1 << 62, 1)), make_tensor(key="../../0"),
    make_tensor(key="none"), make_tensor(size=(2, 2)), make_tensor(kind="UntypedStorage"),
    make_tensor(function="_rebuild_meta_tensor_no_storage"), Raw(b"(" * 10_000), Raw(b"]" * 10_000),
    Raw(b"\x94"), Raw(b"h\x63"), Raw(b"0000"), Raw(b"b"), Raw(b"R"), Raw(b""),
], ids=lambda tensor: str(tensor)[:60])  # fmt: skip
def test_tensors_that_lie_about_themselves_are_refused(place, capfd, tensor):
    name = "conv_blocks_context.0.0.conv1.weight"
    place.rewrite(assemble({"state_dict": {name: tensor}}))
    tracemalloc.start()
    with pytest.raises(ModelError):
        read_weight_file(place.path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26
    assert run(["weights", "inspect", str(place.path)]) in (
        0,
        MODEL_PROBLEM,
    )  # a small tensor of a wrong shape is shown
    assert "Traceback" not in capfd.readouterr().err


def test_a_sound_side_car_does_not_excuse_the_weights(place, capfd):
    write_published_sidecar(place.path.with_name(f"{place.path.name}.pkl"))
    place.add("more", list_payloads(place.canary)["os.mkdir"])
    require_refused(place, capfd)
