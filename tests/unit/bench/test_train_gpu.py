"""The comparison with stock training: both sides run, and the page says what was measured and what was not."""

import pytest

from stu_pipeline.storage import read_json
from tests.bench import train_gpu
from tests.bench.train_gpu import GOALS, SCALES, find_ratio, format_row, main, parse_options, read_rows, write_page
from tests.bench.train_gpu_side import Request, measure, write_cases

PATCH = (32, 32, 32)
MEASURED = {"is_out_of_memory": False, "images_per_s": 10.0, "data_wait": 0.012, "peak_gib": 7.25}
ROW = {
    "stu": MEASURED, "nnunet": MEASURED | {"images_per_s": 4.0}, "device": "some GPU", "torch": "2",
    "date": "2026-01-02",
}  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    write_cases(folder, PATCH)
    return folder


@pytest.mark.filterwarnings("ignore")  # stock nnU-Net's own
@pytest.mark.parametrize("side", ["stu", "nnunet"])
def test_a_side_trains_from_files_and_is_timed(cases, side):
    request = Request(
        side=side, folder=str(cases), scale="S", patch=PATCH, precision="fp32", device="cpu", workers=0,
        warm_up=1, steps=1,
    )  # fmt: skip
    found = measure(request)
    assert found["images_per_s"] == pytest.approx(2 / found["step_s"])
    assert 0 < found["data_wait"] < 1
    assert not found["is_out_of_memory"]


def test_the_page_marks_what_was_not_measured(tmp_path):
    page = tmp_path / "page.md"
    write_page({}, page)
    text = page.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(tuple(f"| {scale} |" for scale in SCALES))]
    assert len(rows) == 4 and all(row.count("not measured") == 7 for row in rows)
    assert "Nothing here has been measured yet" in text
    assert text.isascii()


def test_the_page_shows_what_was_measured(tmp_path):
    page = tmp_path / "page.md"
    write_page({"S": ROW}, page)
    text = page.read_text(encoding="utf-8")
    assert "| S | 10.00 | 4.00 | 2.50 | at least 2.5 | 1.2% | 1.2% | 7.2 | 7.2 |" in text
    assert "Measured on some GPU, torch 2, 2026-01-02." in text
    assert text.count("not measured") == 3 * 7


def test_the_page_in_the_documentation_is_the_one_the_script_writes(tmp_path):
    write_page(read_rows(train_gpu.TARGET), tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == train_gpu.PAGE.read_text(encoding="utf-8")


def test_a_side_that_did_not_fit_or_failed_has_no_ratio():
    full = ROW | {"nnunet": {"is_out_of_memory": True}}
    assert find_ratio(full) is None and find_ratio(ROW | {"stu": None}) is None
    assert "out of memory" in format_row("H", full) and "fits 80 GiB" in format_row("H", full)
    assert find_ratio(ROW) == GOALS["S"]


def test_without_a_gpu_nothing_is_measured_or_written(monkeypatch, capsys):
    monkeypatch.setattr(train_gpu, "_has_cuda", lambda: False)
    main([])
    assert capsys.readouterr().out == "no CUDA device: nothing measured\n"


def test_a_cpu_never_writes_the_tables_of_the_project():
    for words in (["--device", "cpu"], ["--device", "cpu", "--tiny"], ["--tiny"]):
        targets = train_gpu.choose_targets(parse_options(words))
        assert train_gpu.TARGET not in targets and train_gpu.PAGE not in targets


@pytest.mark.slow
def test_the_whole_comparison_runs_on_a_cpu(tmp_path):
    target = tmp_path / "table.json"
    main(["--device", "cpu", "--tiny", "--workers", "1", "--output", str(target)])
    row = read_json(target)["rows"]["S"]
    assert find_ratio(row) > 0 and row["device"] == "cpu"
    assert "| S |" in target.with_suffix(".md").read_text(encoding="utf-8")
