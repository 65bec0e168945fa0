"""Block L2: a package is data, and goes in completely or not at all.

Archives that lead out of their folder, that hide, clash, lie about themselves or grow, and models that hold code:
each is refused with exit 4 and a reason before anything is among the results. Full disks and kills leave no half.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import sys
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from stu_pipeline.cli import run
from tests.kills import REPOSITORY, Command
from tests.packages import DATASET, MODEL, PREFIX, read_members, without_manifest, write_members, write_tiny_package

USAGE, MODEL_PROBLEM, STORAGE = 2, 4, 5
CHECKPOINT = f"{PREFIX}/fold_0/checkpoint_final.pth"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_tiny_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def members(package):
    return without_manifest(read_members(package))


@pytest.fixture
def install(tmp_path, capfd):
    """Install a package; return the exit code and what was said."""

    def call(path, *options):
        code = run(["weights", "install", str(path), "--results", str(tmp_path / "results"), *options])
        return code, capfd.readouterr().err

    return call


@pytest.fixture
def refuse(install, tmp_path):
    """Require that a package is refused, and that nothing of it was put anywhere."""

    def call(path, *words, code=MODEL_PROBLEM):
        before = {entry for entry in tmp_path.rglob("*") if not entry.is_relative_to(tmp_path / "results")}
        found, error = install(path)
        assert found == code, error
        assert "Traceback" not in error and error.count("error: ") == 1, error
        assert all(word in error for word in words), error
        assert "hint: " in error, error
        assert not (tmp_path / "results").exists() or not list((tmp_path / "results").iterdir())
        after = {entry for entry in tmp_path.rglob("*") if not entry.is_relative_to(tmp_path / "results")}
        assert before == after, "something was written outside of the results"

    return call


def test_a_good_package_installs(install, package, members, tmp_path):
    code, error = install(package)
    assert code == 0, error
    model = tmp_path / "results" / DATASET / MODEL
    assert {f"{PREFIX}/{path.relative_to(model)}" for path in model.rglob("*") if path.is_file()} == {
        *members, f"{PREFIX}/stu_package.json",
    }  # fmt: skip
    assert (model / "fold_0" / "checkpoint_final.pth").read_bytes() == members[CHECKPOINT]
    assert [path.name for path in (tmp_path / "results" / DATASET).iterdir()] == [MODEL]


def test_a_package_without_hashes_installs_too(install, members, tmp_path):
    assert install(write_members(tmp_path / "stock.zip", members, packed=True))[0] == 0


NAMES = {
    "up": "../escaped.json",
    "up inside": f"{PREFIX}/../../../escaped.json",
    "absolute": "/tmp/stu-escaped.json",
    "backslash": f"{DATASET}\\..\\escaped.json",
    "drive": "C:/escaped.json",
    "home": "~/escaped.json",
    "dot": f"{PREFIX}/./plans2.json",
    "empty part": f"{PREFIX}//plans.json",
    "newline": f"{PREFIX}/plans\n.json",
    "escape": f"{PREFIX}/\x1b[31mplans.json",
    "delete": f"{PREFIX}/plans\x7f.json",
    "accent": f"{PREFIX}/pl\u00e4ns.json",
    "decomposed": f"{PREFIX}/pla\u0308ns.json",
    "other case": f"{PREFIX}/PLANS.json",
    "other case of the model": f"{DATASET}/{MODEL.upper()}/plans.json",
    "long": f"{PREFIX}/{'a' * 300}.json",
    "program": f"{PREFIX}/nnUNetTrainer.py",
    "library": f"{PREFIX}/fold_0/torch.so",
    "site file": "site.pth",
    "other weights": f"{PREFIX}/fold_0/evil.pth",
    "weights beside the folds": f"{PREFIX}/checkpoint_final.pth",
    "nested": f"{PREFIX}/inner.zip",
    "other dataset": "Dataset902_Other/x__y__z/plans.json",
    "no dataset": "models/a__b__c/plans.json",
    "hidden": f"{PREFIX}/.bashrc",
    "fold": f"{PREFIX}/fold_x/checkpoint_final.pth",
    "pickle": f"{PREFIX}/fold_0/postprocessing.pkl",
    "mac": "__MACOSX/._plans.json",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_that_no_model_has_is_refused(refuse, members, tmp_path, kind):
    path = write_members(tmp_path / "bad.zip", [*members.items(), (NAMES[kind], b"{}")])
    refuse(path, "is refused")
    assert not Path("/tmp/stu-escaped.json").exists()


def test_a_name_with_a_null_byte_is_refused(refuse, members, tmp_path):
    name = f"{PREFIX}/plans.jsonX.py"
    path = write_members(tmp_path / "bad.zip", [*members.items(), (name, b"{}")])
    data = path.read_bytes()
    path.write_bytes(data.replace(name.encode(), name.replace("X", "\0").encode()))
    refuse(path, "is refused")


@pytest.mark.parametrize(
    ("name", "mode"),
    [(f"{PREFIX}/run.json", mode) for mode in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)]
    + [(f"{PREFIX}/fold_0/", stat.S_IFLNK), (f"{PREFIX}/fold_0/", stat.S_IFREG)],
)
def test_links_and_devices_are_refused(refuse, members, tmp_path, name, mode):
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (mode | 0o777) << 16
    refuse(write_members(tmp_path / "bad.zip", [*members.items(), (entry, b"")]), "link or a device")


def test_a_link_to_a_folder_with_a_file_through_it_is_refused(refuse, members, tmp_path):
    link = zipfile.ZipInfo(f"{DATASET}/{MODEL}")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    refuse(write_members(tmp_path / "bad.zip", [(link, b"/tmp"), *members.items()]), "link or a device")


def test_a_name_that_is_there_twice_is_refused(refuse, members, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write_members(tmp_path / "bad.zip", [*members.items(), (f"{PREFIX}/plans.json", b"{}")])
    refuse(path, "there 2 times")


def test_a_file_that_is_a_folder_too_is_refused(refuse, members, tmp_path):
    path = write_members(tmp_path / "bad.zip", [*members.items(), (f"{PREFIX}/plans.json/x", b"{}")])
    refuse(path, "a file and a folder")


@pytest.mark.parametrize("gone", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
def test_an_incomplete_model_is_refused(refuse, members, tmp_path, gone):
    left = {name: data for name, data in members.items() if not name.endswith(gone)}
    refuse(write_members(tmp_path / "bad.zip", left), "missing" if "json" in gone else "no checkpoint")


def test_an_empty_archive_is_refused(refuse, tmp_path):
    refuse(write_members(tmp_path / "bad.zip", {}), "0 members")


# -- what the bytes say about themselves -------------------------------------------------------------------------


def test_bytes_before_an_archive_are_refused(refuse, package, tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"#!/bin/sh\necho\n" + package.read_bytes())
    refuse(tmp_path / "bad.zip", "is refused")


@pytest.mark.parametrize("tail", [b"x", b"PK\x05\x06", b"\0" * 30])
def test_bytes_behind_an_archive_are_refused(refuse, package, tmp_path, tail):
    (tmp_path / "bad.zip").write_bytes(package.read_bytes() + tail)
    refuse(tmp_path / "bad.zip", "is refused")


def test_a_comment_that_holds_another_archive_is_refused(refuse, package, members, tmp_path):
    path = write_members(tmp_path / "bad.zip", members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = package.read_bytes()[-200:]
    refuse(path, "is refused")


def test_bytes_between_members_are_refused(refuse, members, tmp_path):
    path = tmp_path / "bad.zip"
    with path.open("wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
            stream.write(b"hidden")
            archive.start_dir = stream.tell()
    refuse(path, "that nothing lists")


def test_members_that_share_bytes_are_refused(refuse, members, tmp_path):
    path = write_members(tmp_path / "bad.zip", members)
    data = bytearray(path.read_bytes())
    first = data.find(b"PK\x01\x02")
    second = data.find(b"PK\x01\x02", first + 4)
    struct.pack_into("<L", data, second + 42, 0)
    path.write_bytes(data)
    refuse(path, "is refused")


def _list_entries(data):
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        yield place
        place = data.find(b"PK\x01\x02", place + 4)


def change_entry(path, name, offset, layout, value, *, local_offset=None):
    """Change a field of one entry of the list of contents, and the same field before the data."""
    data = bytearray(path.read_bytes())
    for place in _list_entries(data):
        if data[place + 46 :].startswith(name.encode()):
            struct.pack_into(layout, data, place + offset, value)
            if local_offset is not None:
                start = struct.unpack_from("<L", data, place + 42)[0]
                struct.pack_into(layout, data, start + local_offset, value)
    path.write_bytes(data)


@pytest.mark.parametrize("flag", [0x01, 0x40, 0x2000])
@pytest.mark.parametrize("is_local_too", [True, False])
def test_encrypted_members_are_refused(refuse, members, tmp_path, flag, is_local_too):
    path = write_members(tmp_path / "bad.zip", members)
    change_entry(path, f"{PREFIX}/plans.json", 8, "<H", flag, local_offset=6 if is_local_too else None)
    refuse(path, "is refused")


@pytest.mark.parametrize("method", [1, 9, 12, 14, 93, 99])
def test_other_ways_of_packing_are_refused(refuse, members, tmp_path, method):
    path = write_members(tmp_path / "bad.zip", members)
    change_entry(path, f"{PREFIX}/plans.json", 10, "<H", method, local_offset=8)
    refuse(path, "is refused")


def test_a_wrong_checksum_is_refused(refuse, members, tmp_path):
    path = write_members(tmp_path / "bad.zip", members)
    change_entry(path, CHECKPOINT, 16, "<L", 12345, local_offset=14)
    refuse(path, "damaged")


@pytest.mark.parametrize("change", [-1, 1, 1 << 20, 1 << 30])
@pytest.mark.parametrize("packed", [True, False])
def test_a_size_that_is_not_true_is_refused(refuse, members, tmp_path, change, packed):
    path = write_members(tmp_path / "bad.zip", members, packed=packed)
    size = len(members[f"{PREFIX}/plans.json"])
    change_entry(path, f"{PREFIX}/plans.json", 24, "<L", size + change, local_offset=22)
    refuse(path, "is refused")


@pytest.mark.parametrize("field", [8, 10])
def test_a_count_of_members_that_is_not_true_is_refused(refuse, members, tmp_path, field):
    path = write_members(tmp_path / "bad.zip", members)
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, len(data) - 22 + field, 1)
    path.write_bytes(data)
    refuse(path, "is refused")


def test_a_part_of_a_split_archive_is_refused(refuse, members, tmp_path):
    path = write_members(tmp_path / "bad.zip", members)
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, len(data) - 22 + 4, 1)
    path.write_bytes(data)
    refuse(path, "several files")


def test_a_million_members_are_refused_before_they_are_listed(refuse, tmp_path):
    path = write_members(tmp_path / "bad.zip", {f"{PREFIX}/plans.json": b"{}"})
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH", data, len(data) - 22 + 8, 65000, 65000)
    path.write_bytes(data)
    refuse(path, "65000 members")


def test_a_bomb_is_refused_without_being_unpacked(refuse, members, tmp_path):
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(64)) + bomb.flush()
    assert len(packed) < 1 << 20
    with_bomb = {**members, f"{PREFIX}/fold_0/debug.json": bytes(64 << 20)}
    refuse(write_members(tmp_path / "bad.zip", with_bomb, packed=True), "would grow")


def test_an_archive_cut_anywhere_is_refused(refuse, package, tmp_path):
    data = package.read_bytes()
    for size in (0, 1, 21, 22, 100, len(data) // 2, len(data) - 23, len(data) - 1):
        (tmp_path / "bad.zip").write_bytes(data[:size])
        refuse(tmp_path / "bad.zip", "is refused")


def test_flipped_bits_are_refused_or_change_nothing(install, package, members, tmp_path):
    data = package.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(len(data), (40,), generator=generator).tolist():
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        (tmp_path / "bad.zip").write_bytes(changed)
        code, error = install(tmp_path / "bad.zip", "--overwrite")
        assert code in (0, MODEL_PROBLEM) and "Traceback" not in error, (place, error)
        model = tmp_path / "results" / DATASET / MODEL
        assert code or (model / "fold_0" / "checkpoint_final.pth").read_bytes() == members[CHECKPOINT], place


@pytest.mark.parametrize("kind", ["tar", "gzip", "text", "checkpoint", "folder"])
def test_what_is_no_zip_of_models_is_refused(refuse, members, tmp_path, kind):
    path = tmp_path / "bad.zip"
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            link = tarfile.TarInfo(f"{PREFIX}/plans.json")
            link.type, link.linkname = tarfile.LNKTYPE, "/etc/passwd"
            archive.addfile(link)
    elif kind == "gzip":
        path.write_bytes(zlib.compress(b"x" * 1000, wbits=31))
    elif kind == "checkpoint":
        path.write_bytes(members[CHECKPOINT])
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("<html>not found</html>" * 9)
    refuse(path)


# -- the list of hashes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["hash", "size", "missing", "extra", "schema", "list", "no json"])
def test_a_list_of_hashes_that_does_not_fit_is_refused(refuse, package, tmp_path, change):
    everything = read_members(package)
    name = f"{PREFIX}/stu_package.json"
    manifest = json.loads(everything[name])
    files = manifest["files"]
    if change == "hash":
        files["plans.json"]["sha256"] = "0" * 64
    elif change == "size":
        files["plans.json"]["bytes"] += 1
    elif change == "missing":
        del files["plans.json"]
    elif change == "extra":
        files["quality.json"] = files["plans.json"]
    elif change == "schema":
        manifest["schema"] = 99
    elif change == "list":
        manifest["files"] = list(files)
    everything[name] = b"{" if change == "no json" else json.dumps(manifest).encode()
    refuse(write_members(tmp_path / "bad.zip", everything))


def test_a_changed_plan_does_not_fit_its_hash(refuse, package, tmp_path):
    everything = read_members(package)
    everything[f"{PREFIX}/plans.json"] += b" "
    refuse(write_members(tmp_path / "bad.zip", everything), "hash differs")


# -- what is inside the files ------------------------------------------------------------------------------------


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["network_weights", "init_args", "logging", "optimizer_state", "more"])
def test_code_in_a_checkpoint_is_refused_and_not_run(refuse, members, tmp_path, place):
    canary = tmp_path / "canary"
    checkpoint = torch.load(io.BytesIO(members[CHECKPOINT]), weights_only=True)
    payload = Call(os.mkdir, str(canary))
    checkpoint[place] = {**checkpoint[place], "x": payload} if isinstance(checkpoint.get(place), dict) else payload
    stream = io.BytesIO()
    torch.save(checkpoint, stream)
    refuse(write_members(tmp_path / "bad.zip", {**members, CHECKPOINT: stream.getvalue()}), "fold_0")
    assert not canary.exists(), "code of the package was run"


def test_a_bare_pickle_in_place_of_a_checkpoint_is_not_run(refuse, members, tmp_path):
    canary = tmp_path / "canary"
    data = pickle.dumps({"network_weights": Call(os.mkdir, str(canary))})
    refuse(write_members(tmp_path / "bad.zip", {**members, CHECKPOINT: data}), "fold_0")
    assert not canary.exists()


def test_the_pickle_of_stock_packages_is_left_out_and_not_run(install, members, tmp_path):
    canary = tmp_path / "canary"
    extra = {
        f"{DATASET}/ensembles/ensemble___a__b__c/postprocessing.pkl": pickle.dumps(Call(os.mkdir, str(canary))),
        f"{DATASET}/inference_information.json": b"{}",
        f"{PREFIX}/crossval_results_folds_0/postprocessing.pkl": pickle.dumps(Call(os.mkdir, str(canary))),
    }
    code, error = install(write_members(tmp_path / "stock.zip", {**members, **extra}))
    assert code == 0 and "not installed" in error and "postprocessing.pkl" in error
    assert not canary.exists() and not list((tmp_path / "results").rglob("*.pkl"))


def change_plan(members, **changes):
    plan = json.loads(members[f"{PREFIX}/plans.json"])
    configuration = plan["configurations"]["3d_fullres"]
    for key, value in changes.items():
        target = plan if key in plan else configuration["architecture"] if "class" in key else configuration
        target[key] = value
    return {**members, f"{PREFIX}/plans.json": json.dumps(plan).encode()}


@pytest.mark.parametrize(("key", "value"), [
    ("network_class_name", "os.system"), ("network_class_name", "builtins.exec"), ("image_reader_writer", "os.system"),
    ("label_manager", "subprocess.Popen"), ("preprocessor_name", "os.system"), ("resampling_fn_data", "os.system"),
    ("normalization_schemes", ["os.system"]), ("configurations", {}), ("patch_size", [16, 16, -16]),
    ("spacing", [1, 1, 0]),
])  # fmt: skip
def test_a_plan_that_names_other_code_or_nonsense_is_refused(refuse, members, tmp_path, key, value):
    refuse(write_members(tmp_path / "bad.zip", change_plan(members, **{key: value})), "plan")


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("text", [
    b"", b"[]", b"null", b"{", b"[" * 50_000, b'{"a": 1, "a": 2}', b"\xff\xfe", b'{"a": NaN}', b"1" * 5000, b"\x00",
])  # fmt: skip
def test_a_damaged_description_is_refused(refuse, members, tmp_path, name, text):
    refuse(write_members(tmp_path / "bad.zip", {**members, f"{PREFIX}/{name}": text}), name)


def test_weights_that_do_not_fit_their_plan_are_refused(refuse, members, tmp_path):
    checkpoint = torch.load(io.BytesIO(members[CHECKPOINT]), weights_only=True)
    key = next(iter(checkpoint["network_weights"]))
    for name, change in {"shape": torch.zeros(1, 2), "nan": checkpoint["network_weights"][key] * float("nan")}.items():
        stream = io.BytesIO()
        torch.save({**checkpoint, "network_weights": {**checkpoint["network_weights"], key: change}}, stream)
        path = write_members(tmp_path / f"{name}.zip", {**members, CHECKPOINT: stream.getvalue()})
        refuse(path, "fold_0/checkpoint_final.pth", code=MODEL_PROBLEM if name == "shape" else 8)


def test_a_model_under_the_name_of_another_configuration_is_refused(refuse, members, tmp_path):
    renamed = {name.replace("__3d_fullres/", "__2d/"): data for name, data in members.items()}
    refuse(write_members(tmp_path / "bad.zip", renamed), "'2d'", "'3d_fullres'")


# -- where it goes -----------------------------------------------------------------------------------------------


def test_a_model_that_is_there_is_kept_unless_asked(install, package, members, tmp_path):
    model = tmp_path / "results" / DATASET / MODEL
    model.mkdir(parents=True)
    (model / "mine").write_text("kept")
    code, error = install(package)
    assert code == USAGE and "--overwrite" in error and (model / "mine").read_text() == "kept"
    bad = write_members(tmp_path / "bad.zip", {**members, f"{PREFIX}/plans.json": b"{}"})
    assert install(bad, "--overwrite")[0] == MODEL_PROBLEM
    assert [path.name for path in model.parent.iterdir()] == [MODEL] and (model / "mine").read_text() == "kept"
    assert install(package, "--overwrite")[0] == 0
    assert not (model / "mine").exists() and (model / "fold_0").is_dir()
    assert [path.name for path in model.parent.iterdir()] == [MODEL]


def test_a_link_in_the_place_of_the_model_is_not_written_through(install, package, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    dataset = tmp_path / "results" / DATASET
    dataset.mkdir(parents=True)
    (dataset / MODEL).symlink_to(elsewhere)
    assert install(package)[0] == USAGE
    assert install(package, "--overwrite")[0] == 0
    assert not list(elsewhere.iterdir()) and not (dataset / MODEL).is_symlink()


def start_install(package, results, *options, **variables):
    arguments = (sys.executable, "-m", "stu_pipeline", "weights", "install", str(package), "--results", str(results))
    return Command((*arguments, *options), variables)


LIMITS = (0, 100, 1000, 20_000)


@pytest.mark.integration
@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_disk_leaves_nothing_and_the_same_command_ends_it(package, members, tmp_path, limit):
    assert len(members[CHECKPOINT]) > max(LIMITS), "a limit that nothing reaches tests nothing"
    script = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); " \
        "from stu_pipeline.cli import run; sys.exit(run(sys.argv[1:]))"  # fmt: skip
    arguments = ("weights", "install", str(package), "--results", str(tmp_path / "results"))
    code, output, _ = Command((sys.executable, "-c", script, *arguments)).finish()
    assert code == STORAGE and "Traceback" not in output and "GiB free" in output, output
    assert not (tmp_path / "results" / DATASET).exists()
    assert start_install(package, tmp_path / "results").finish()[0] == 0


KILLS = (
    "replace before nnUNetTrainer__* 1",
    "replace after nnUNetTrainer__* 1",
    "replace before nnUNetTrainer__* 2",
    "replace after nnUNetTrainer__* 2",
    "replace before replaced 1",
    "replace after replaced 1",
)


@pytest.mark.integration
@pytest.mark.parametrize("moment", KILLS)
def test_a_kill_at_any_move_leaves_the_old_model_or_the_new_one(package, tmp_path, moment):
    results = tmp_path / "results"
    model = results / DATASET / MODEL
    model.mkdir(parents=True)
    (model / "mine").write_text("old")
    variables = {"KILL_AT_CALL": moment, "PYTHONPATH": f"{REPOSITORY / 'tests' / 'kill_at_call'}:{REPOSITORY}"}
    code, output, _ = start_install(package, results, "--overwrite", **variables).finish()
    assert code == -9, output
    is_old, is_new = (model / "mine").is_file(), (model / "fold_0" / "checkpoint_final.pth").is_file()
    assert is_old + is_new <= 1 and (is_old or is_new or not model.exists())
    # A package that is refused: whoever comes next only cleans up.
    bad = write_members(tmp_path / "bad.zip", {**read_members(package), f"{PREFIX}/plans.json": b"{}"})
    assert start_install(bad, results, "--overwrite").finish()[0] == MODEL_PROBLEM
    assert [path.name for path in model.parent.iterdir()] == [MODEL]
    assert (model / "mine").is_file() != (model / "fold_0" / "checkpoint_final.pth").is_file()
    assert start_install(package, results, "--overwrite").finish()[0] == 0
    assert [path.name for path in model.parent.iterdir()] == [MODEL] and not (model / "mine").exists()
