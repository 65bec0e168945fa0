import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from stu_pipeline.cli.evaluate import evaluate_command
from stu_pipeline.errors import DataError
from tests.synthetic import make_label_map, write_dataset_json, write_volume


def invoke(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(evaluate_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folders(tmp_path):
    for index in range(2):
        labels = make_label_map((8, 10, 24)).astype(np.uint8)
        write_volume(tmp_path / "labelsTr" / f"case_{index}.nii.gz", labels)
        write_volume(tmp_path / "pred" / f"case_{index}.nii.gz", np.roll(labels, index, axis=2))
    return tmp_path / "labelsTr", tmp_path / "pred"


def test_tables_name_labels_and_worst_cases(folders):
    outcome = invoke("-r", folders[0], "-p", folders[1], "--tolerance", 2)
    assert outcome.exit_code == 0
    for expected in ("label 1", "NSD 2 mm", "0.9286", "worst cases", "case_1", "summary.json"):
        assert expected in outcome.stdout


def test_json_is_one_document_on_stdout(folders):
    outcome = invoke("--reference", folders[0], "--prediction", folders[1], "--json", "-q")
    assert json.loads(outcome.stdout)["mean_dice"] == pytest.approx((1 + 6 / 7) / 2)


def test_flags_reach_the_evaluation(folders, tmp_path):
    (folders[1] / "case_0.nii.gz").unlink()
    labels = write_dataset_json(tmp_path / "elsewhere", labels={"background": 0, "left": 1, "right": 2})
    flags = ("-o", tmp_path / "scores.json", "--labels", labels, "--allow-missing", "--no-surface", "--workers", 1)
    outcome = invoke("-r", folders[0], "-p", folders[1], *flags)
    assert outcome.exit_code == 0
    summary = json.loads((tmp_path / "scores.json").read_text())
    assert summary["stu"]["labels"]["2"]["name"] == "right"
    assert summary["stu"]["missing"] == ["case_0"]
    assert "NSD" not in summary["mean"]["1"]


def test_a_report_is_written_where_asked_and_next_comes_a_comparison(folders, tmp_path):
    first = invoke("-r", folders[0], "-p", folders[1])
    assert first.stdout.splitlines()[-1] == f"next: stu evaluate -r {folders[0]} -p {folders[1]} --report report"
    outcome = invoke("-r", folders[0], "-p", folders[1], "--report", tmp_path / "report", "--lesions", "--no-surface")
    assert outcome.exit_code == 0 and f"page: {tmp_path / 'report' / 'report.html'}" in outcome.stdout
    assert "lesion F1" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == f"next: stu compare {folders[1] / 'summary.json'} OTHER_RUN"


def test_a_user_error_reaches_the_caller(folders):
    (folders[1] / "case_0.nii.gz").unlink()
    outcome = invoke("-r", folders[0], "-p", folders[1])
    assert isinstance(outcome.exception, DataError)


def test_help_ends_with_examples_and_loads_nothing_heavy():
    assert "stu evaluate -r" in invoke("--help").stdout
    code = "import sys, stu_pipeline.cli.evaluate; sys.exit(bool({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
