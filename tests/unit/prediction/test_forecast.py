"""The memory forecast: what a case takes, which cases overlap, which are refused, and what `--dry-run` says."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stu_pipeline.datasets.cases import Case, list_input_cases
from stu_pipeline.datasets.reading import read_channels
from stu_pipeline.errors import MemoryLimitError, PartialError, UsageError
from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.forecast import COLUMNS, Forecast
from stu_pipeline.prediction.memory.case_need import CaseNeed, measure_need
from stu_pipeline.prediction.memory.process_need import ProcessNeed, bound_process, measure_process
from stu_pipeline.prediction.predict import predict
from stu_pipeline.prediction.run.session import Session
from stu_pipeline.preparation.case_settings import CaseSettings, Resampling
from stu_pipeline.preparation.memory import forecast_preparing_bytes, forecast_reading_bytes
from stu_pipeline.preparation.normalisation import Normalisation
from stu_pipeline.preparation.prepare import prepare_image
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

MIB = 1 << 20
SMALL, LARGE = (10, 18, 20), (140, 150, 160)
PROCESS = ProcessNeed(resident=100, peak_so_far=120, pass_bytes=10)


def make_need(name: str, *, loading: int = 0, loaded: int = 0, computing: int = 0, passing: int = 0,
              exporting: int = 0, writing: int = 0) -> CaseNeed:  # fmt: skip
    return CaseNeed(
        case_id=name, image_voxels=1, network_voxels=1, loading=loading, loaded=loaded, computing=computing,
        passing=passing, exporting=exporting, writing=writing, on_gpu=0, disk=1, passes=1, tiles=1,
    )  # fmt: skip


def make_forecast(*needs: CaseNeed | None, limit: int = 1000, num_ahead: int = 1, **changes: Any) -> Forecast:
    cases = tuple(
        Case(id=f"{index}" if need is None else need.case_id, image_files=(Path(f"/in/{index}.nii.gz"),))
        for index, need in enumerate(needs)
    )
    return Forecast(
        cases=cases, needs=needs, process=PROCESS, limit=limit, num_ahead=num_ahead, **{"is_asked": True} | changes
    )


def list_names(forecast: Forecast) -> list[tuple[str, int]]:
    return [("".join(case.id for case in share.cases), share.num_ahead) for share in forecast.shares]


# -- one after the other, or together ----------------------------------------------------------------------------------


def test_a_case_with_its_neighbours_takes_the_sum_of_what_happens_at_once():
    before = make_need("a", loading=1, loaded=7, writing=11)
    middle = make_need("b", loading=2, loaded=13, computing=17, exporting=5, writing=3)
    after = make_need("c", loading=19)
    forecast = make_forecast(before, middle, after)
    assert list_names(forecast) == [("abc", 1)]
    # process, what stays of the case, what it computes, the pass that is larger than its export, and both neighbours
    assert forecast.peaks["b"] == 100 + 13 + 17 + 10 + (7 + 11) + 19
    assert forecast.peak == forecast.peaks["b"]
    gib = make_forecast(*(make_need(name, loading=1 << 30, writing=2 << 30) for name in "ab"), limit=99 << 30)
    numbers = "= process 0.00 + image 0.00 + sums, tiles and mask 0.00 + pass or export 0.00 + next 0.00 + last 2.00"
    assert numbers in gib.describe()["lines"]


def test_an_export_larger_than_a_pass_counts_instead_of_it():
    assert make_forecast(make_need("a", computing=3, passing=20, exporting=50)).peaks["a"] == 100 + 3 + 50
    assert make_forecast(make_need("a", computing=3, passing=45, exporting=50)).peaks["a"] == 100 + 3 + 45 + 10


def test_a_case_alone_takes_its_worst_step():
    for step in ({"loading": 60}, {"loaded": 20, "computing": 30}, {"loaded": 20, "writing": 40}):
        assert make_forecast(make_need("a", **step), num_ahead=0).peaks["a"] == 160


def test_reading_several_cases_ahead_counts_all_of_them():
    needs = [make_need(name, loading=20) for name in "abcd"]
    assert make_forecast(*needs, num_ahead=1).peaks["a"] == 100 + 10 + 20
    assert make_forecast(*needs, num_ahead=3).peaks["a"] == 100 + 10 + 60


def test_what_fits_overlaps_and_what_does_not_runs_alone():
    needs = [make_need(name, loading=size, loaded=size) for name, size in zip("abcde", (5, 5, 80, 5, 5), strict=True)]
    assert list_names(make_forecast(*needs, limit=300)) == [("abcde", 1)]
    assert list_names(make_forecast(*needs, limit=194)) == [("ab", 1), ("c", 0), ("de", 1)]


def test_the_cases_before_the_last_one_matter_too():
    # 'b' would still fit beside 'a', but with 'c' being read meanwhile it would not.
    needs = [make_need("a", writing=40), make_need("b", computing=40), make_need("c", loading=40)]
    assert list_names(make_forecast(*needs, limit=230)) == [("abc", 1)]
    assert list_names(make_forecast(*needs, limit=229)) == [("ab", 1), ("c", 0)]


def test_every_peak_of_a_run_that_is_not_refused_keeps_the_limit():
    generator = np.random.default_rng(3)
    for limit in range(150, 400, 10):
        needs = [
            make_need(str(number), **dict(zip(("loading", "loaded", "computing", "exporting", "writing"),
                      (int(size) for size in generator.integers(0, 60, 5)), strict=True)))
            for number in range(12)
        ]  # fmt: skip
        forecast = make_forecast(*needs, limit=limit)
        assert all(peak <= limit for peak in forecast.peaks.values())
        assert forecast.peaks.keys() | forecast.refused == {str(number) for number in range(12)}
        assert [case for share in forecast.shares for case in share.cases] == list(forecast.cases)


def test_without_reading_ahead_nothing_overlaps():
    assert list_names(make_forecast(make_need("a"), make_need("b"), num_ahead=0)) == [("ab", 0)]


def test_a_case_nobody_could_look_at_is_neither_refused_nor_in_the_way():
    forecast = make_forecast(make_need("a"), None, make_need("c"))
    assert list_names(forecast) == [("a1c", 1)]
    assert not forecast.refused
    assert forecast.describe()["rows"][1][-1] == "its header cannot be read"


def test_no_cases_take_what_the_process_took_so_far():
    forecast = make_forecast()
    assert forecast.peak == 120
    assert forecast.shares == () and forecast.describe()["rows"] == []


# -- refusing ---------------------------------------------------------------------------------------------------------


def test_a_case_that_does_not_fit_alone_is_refused_with_need_and_limit():
    forecast = make_forecast(make_need("a", loading=4 << 30), make_need("b"), limit=2 << 30)
    assert forecast.refused == {"a"}
    forecast.admit(forecast.cases[1])
    with pytest.raises(MemoryLimitError, match=r"'a' would take 4\.00 GiB of memory, the limit is 2\.00 GiB") as caught:
        forecast.admit(forecast.cases[0])
    assert "--max-ram" in caught.value.hint


def test_without_a_limit_the_hint_does_not_speak_of_one():
    forecast = make_forecast(make_need("a", loading=4 << 30), limit=2 << 30, is_asked=False)
    with pytest.raises(MemoryLimitError, match=r"2\.00 GiB can be used") as caught:
        forecast.admit(forecast.cases[0])
    assert "--max-ram" not in caught.value.hint


def test_what_is_refused_leaves_its_room_to_others():
    needs = [make_need("a", loading=5), make_need("b", loading=500), make_need("c", loading=5)]
    assert list_names(make_forecast(*needs, limit=200)) == [("abc", 1)]


# -- the numbers of a case --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [(40, 44, 48), (60, 66, 72), (20, 66, 72), (56, 30, 24), (24, 26, 28)])
@pytest.mark.parametrize(("scheme", "inside"), [("CTNormalization", False), ("ZScoreNormalization", True)])
def test_preparing_takes_what_is_forecast(target: tuple[int, int, int], scheme: str, inside: bool):
    shape = (40, 44, 48)
    statistics = {"mean": 0.0, "std": 1.0, "percentile_00_5": -3.0, "percentile_99_5": 3.0}
    how = Resampling(order=3)
    settings = CaseSettings(
        reader="SimpleITKIO",
        transpose=(0, 1, 2),
        spacing_mm=tuple(old / new for old, new in zip(shape, target, strict=True)),
        patch_size=(16, 16, 16),
        normalisations=(Normalisation(scheme=scheme, within_mask=inside, statistics=statistics),) * 2,
        image_resampling=how,
        label_resampling=Resampling(order=1),
    )
    generator = np.random.default_rng(0)
    prepare_image(generator.normal(size=(2, 8, 8, 8)).astype(np.float32), (1.0, 1.0, 1.0), settings)  # late imports
    tracemalloc.start()
    image = generator.normal(size=(2, *shape)).astype(np.float32)
    tracemalloc.reset_peak()
    prepared = prepare_image(image, (1.0, 1.0, 1.0), settings)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert prepared.array.shape[1:] == target
    forecast = forecast_preparing_bytes(shape, target, 2, is_z_score=inside, within_mask=inside)
    assert peak <= forecast * 1.1
    # A z-score within a mask is forecast for an image with a border of zeros, which this one lacks.
    assert peak >= forecast * (0.6 if inside else 0.75)


@pytest.mark.parametrize(("dtype", "num_channels"), [(np.int16, 1), (np.float32, 1), (np.float64, 1), (np.int16, 3)])
def test_reading_takes_what_is_forecast(tmp_path: Path, dtype: type, num_channels: int):
    shape = (60, 70, 80)
    generator = np.random.default_rng(0)
    files = [
        write_volume(tmp_path / f"case_{index:04d}.nii.gz", generator.integers(-99, 99, shape).astype(dtype))
        for index in range(num_channels)
    ]
    read_channels(files)  # late imports
    tracemalloc.start()
    read_channels(files)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = np.dtype(dtype).itemsize
    forecast = forecast_reading_bytes(
        shape[0] * shape[1] * shape[2],
        num_channels,
        stored_bytes=0 if dtype == np.float32 else size,
        packed_bytes=max(file.stat().st_size for file in files),
    )
    assert forecast * 0.75 <= peak <= forecast * 1.1


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index, shape in enumerate((SMALL, LARGE, SMALL)):
        image = make_image(make_label_map(SMALL)) if shape == SMALL else np.full(shape, 7, dtype=np.int16)
        write_volume(tmp_path / "images" / f"case_{index}_0000.nii.gz", image, spacing_mm=(2.0, 1.0, 1.0))
    return tmp_path / "images"


def make_model(place: Path, **changes: Any) -> Path:
    return write_model_folder(place / "results", **({"network": "PlainConvUNet", "mirror_axes": (2,)} | changes))


def make_config(images: Path, output: Path, *models: Path, **options: Any) -> PredictConfig:
    return PredictConfig(input=images, output=output, models=models, **{"device": "cpu"} | options)


def measure_case(images: Path, index: int, *models: Path, **options: Any) -> CaseNeed:
    config = make_config(images, images.parent / "out", *models, **options)
    session = Session(config, lambda event: None)
    return measure_need(list_input_cases(images, 1, ".nii.gz")[index], session.ensemble, config)


def test_a_larger_image_takes_more_of_everything(model: Path, images: Path):
    small, large = measure_case(images, 0, model), measure_case(images, 1, model)
    for name in ("loading", "loaded", "computing", "writing", "disk", "passes", "tiles", "network_voxels"):
        assert getattr(small, name) < getattr(large, name), name
    assert large.image_voxels == 140 * 150 * 160


def test_probabilities_label_files_and_ensembles_take_more(tmp_path: Path, model: Path, images: Path):
    plain = measure_case(images, 1, model)
    with_probabilities = measure_case(images, 1, model, probabilities="npz")
    assert with_probabilities.exporting > plain.exporting and with_probabilities.disk > plain.disk
    assert measure_case(images, 1, model, per_label_files=True).writing > plain.writing
    other = make_model(tmp_path, plan_name="otherPlans", spacing_mm=(1.0, 1.0, 1.0))
    both = measure_case(images, 1, model, other)
    assert both.loading > plain.loading and both.loaded > plain.loaded
    # The slabs of one grid wait for the tiles of the other one.
    assert both.computing > 2 * plain.computing and both.count_predicting(0) > plain.count_predicting(0)
    assert both.passes > plain.passes


def test_measures_of_quality_and_cleaning_take_more(tmp_path: Path, model: Path, images: Path):
    def forecast(**options: Any) -> CaseNeed:
        session = Session(make_config(images, tmp_path / "out", model, dry_run=True, **options), lambda event: None)
        need = session.forecast(list_input_cases(images, 1, ".nii.gz")).needs[1]
        assert need is not None
        return need

    plain = forecast()
    (model / "quality.json").write_text("{}")
    (model / "postprocessing.json").write_text("{}")
    learned = forecast()
    assert learned.exporting > plain.exporting and learned.writing > plain.writing
    assert forecast(postprocessing="none").writing == plain.writing


def test_a_resampling_only_nnunet_knows_holds_all_labels_at_once(tmp_path: Path, model: Path, images: Path):
    dense = make_model(tmp_path, plan_name="densePlans", resampling_fn_probabilities="resample_torch_fornnunet",
                       resampling_fn_probabilities_kwargs={"is_seg": False})  # fmt: skip
    found = measure_case(images, 1, dense)
    # Three labels as float32: the scores, the same resampled, and their probabilities.
    assert found.exporting >= 3 * 3 * 4 * found.image_voxels
    assert found.exporting > 4 * measure_case(images, 1, model).exporting


def test_a_cascade_counts_its_first_stage_and_the_voxels_it_keeps(tmp_path: Path, images: Path):
    make_model(tmp_path, configuration="3d_lowres", spacing_mm=(4.0, 2.0, 2.0))
    cascade = make_model(tmp_path, configuration="3d_cascade_fullres", previous_stage="3d_lowres")
    plain = make_model(tmp_path)
    found, alone = measure_case(images, 1, cascade), measure_case(images, 1, plain)
    assert found.loaded >= 2 * 4 * found.image_voxels  # the voxels, and the sample for the report
    assert found.computing > alone.computing
    assert found.passes > alone.passes


def test_a_pass_is_measured_below_its_bound(model: Path, images: Path):
    session = Session(make_config(images, images.parent / "out", model), lambda event: None)
    bound, measured = bound_process(session.ensemble), measure_process(session.ensemble)
    assert measured.is_measured and not bound.is_measured
    assert measured.resident > 100 * MIB
    assert 0 <= measured.pass_bytes <= bound.pass_bytes + 32 * MIB


# -- the whole prediction ---------------------------------------------------------------------------------------------


def test_a_dry_run_says_formula_and_numbers_and_makes_nothing(tmp_path: Path, model: Path, images: Path):
    before = sorted(tmp_path.rglob("*"))
    result = predict(make_config(images, tmp_path / "out", model, dry_run=True))
    assert sorted(tmp_path.rglob("*")) == before
    assert result.cases == () and result.report is None
    said = result.forecast
    assert said is not None
    assert tuple(said["columns"]) == COLUMNS
    assert [row[0] for row in said["rows"]] == ["case_0", "case_1", "case_2"]
    assert [row[-1] for row in said["rows"]] == ["yes"] * 3
    text = "\n".join(said["lines"])
    assert "RAM = process" in text and "peak: " in text and "can be used" in text
    assert said["peak_gib"] > said["process_gib"] > 0.05


def test_a_dry_run_leaves_out_what_is_there(tmp_path: Path, model: Path, images: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "case_1.nii.gz").touch()
    result = predict(make_config(images, tmp_path / "out", model, dry_run=True))
    assert result.forecast is not None
    assert [row[0] for row in result.forecast["rows"]] == ["case_0", "case_2"]


def test_a_dry_run_names_the_case_whose_header_is_broken(tmp_path: Path, model: Path, images: Path):
    (images / "case_0_0000.nii.gz").write_bytes(b"nothing")
    result = predict(make_config(images, tmp_path / "out", model, dry_run=True))
    assert result.forecast is not None
    assert [row[-1] for row in result.forecast["rows"]] == ["its header cannot be read", "yes", "yes"]


def test_a_limit_below_everything_refuses_all_cases_and_leaves_no_mask(tmp_path: Path, model: Path, images: Path):
    with pytest.raises(MemoryLimitError, match="all 3 cases failed") as caught:
        predict(make_config(images, tmp_path / "out", model, max_ram_gib=0.01))
    assert all("the limit is 0.01 GiB" in line for line in caught.value.details)
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_limit_costs_the_large_case_only(tmp_path: Path, model: Path, images: Path):
    session = Session(make_config(images, tmp_path / "out", model, dry_run=True), lambda event: None)
    forecast = session.forecast(list_input_cases(images, 1, ".nii.gz"))
    small, large = (forecast.count_alone(need) for need in forecast.needs[:2] if need is not None)
    assert large - small > 16 * MIB
    with pytest.raises(PartialError, match="1 of 3 cases failed: case_1"):
        predict(make_config(images, tmp_path / "out", model, max_ram_gib=(small + large) / 2 / 2**30))
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["case_0.nii.gz", "case_2.nii.gz"]


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_is_none_is_refused(tmp_path: Path, value: float):
    with pytest.raises(UsageError, match="max-ram"):
        make_config(tmp_path, tmp_path / "out", tmp_path, max_ram_gib=value)
