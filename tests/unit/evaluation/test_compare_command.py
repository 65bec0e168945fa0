import json
import subprocess
import sys

import numpy as np
import pytest

from stu_pipeline.cli import run


def write_summary(path, dice):
    entries = [
        {"metrics": {"1": {"Dice": value, "n_ref": 5, "n_pred": 5}}, "prediction_file": f"case_{index}.nii.gz"}
        for index, value in enumerate(dice)
    ]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"metric_per_case": entries}))
    return str(path.parent)


@pytest.fixture
def runs(tmp_path):
    generator = np.random.default_rng(0)
    dice = generator.uniform(0.5, 0.8, 12)
    return [
        write_summary(tmp_path / name / "summary.json", (dice + gain).tolist())
        for name, gain in (("small", 0.0), ("large", 0.05 + generator.normal(0, 0.01, 12)))
    ]


def test_the_result_is_tables_a_sentence_and_what_comes_next(runs, capsys):
    assert run(["compare", *runs]) == 0
    out = capsys.readouterr().out
    for expected in ("large minus small", "all labels", "effect r", "large is better than small by 0.0"):
        assert expected in out
    assert out.splitlines()[-1] == f"next: stu compare {runs[0]} {runs[1]} -o comparison"


def test_json_is_one_document_on_stdout(runs, capsys):
    assert run(["compare", *runs, "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pairs"][0]["overall"]["wins"] == 12 and document["next"].startswith("stu compare")


def test_flags_reach_the_comparison(runs, tmp_path, capsys):
    flags = ["--name", "A", "--name", "B", "-o", str(tmp_path / "out"), "--common", "--workers", "1"]
    assert run(["compare", *runs, *flags]) == 0
    out = capsys.readouterr().out
    assert "B is better than A" in out and f"page: {tmp_path / 'out' / 'comparison.html'}" in out
    assert out.splitlines()[-1].endswith("--metric HD95_mm")
    assert (tmp_path / "out" / "comparison.json").is_file()


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ((), 2, "a comparison needs two runs or more"),
        (("--metric", "TN"), 2, "metric 'TN' cannot be compared"),
        (("--metric", "NSD"), 3, "has no 'NSD', only Dice"),
    ],
)
def test_what_cannot_be_compared_has_its_exit_code(runs, capsys, flags, code, said):
    given = runs if flags else runs[:1]
    assert run(["compare", *given, *flags]) == code
    assert said in capsys.readouterr().err


def test_other_cases_are_bad_data(runs, tmp_path, capsys):
    other = write_summary(tmp_path / "other" / "summary.json", [0.5])
    assert run(["compare", runs[0], other]) == 3
    err = capsys.readouterr().err
    assert "do not have the same cases" in err and "--common" in err
    assert run(["compare", runs[0], other, "--common"]) == 0


def test_help_loads_nothing_heavy():
    code = "import sys, stu_pipeline.cli.compare; sys.exit(bool({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
