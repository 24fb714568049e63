from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.__main__ import EXPERIMENTS
from benchmarks.accuracy.grid import Grid, merged
from benchmarks.accuracy.page import rows_of, write_page
from benchmarks.accuracy.results import ModelResult, RunResult, append_result, read_results
from benchmarks.accuracy.runner import data_name, run_grid
from schemas.base import validate_config
from schemas.errors import ConfigError, InputError

GRID: dict[str, Any] = {
    "question": "Do more bits help?",
    "base": {"image_size": 160, "qat": {"steps": 2, "batch": 2}},
    "factors": {
        "bits": {"two": {"qat": {"bits": {"weight_bits": 2}}}, "eight": {"qat": {"bits": {"weight_bits": 8}}}},
        "loss": {"all": {}, "no task": {"qat": {"weights": {"task": 0}}}},
    },
    "seeds": [3, 4],
}


def grid(**changes: Any) -> Grid:
    return validate_config(Grid, GRID | changes, "here")


def result(levels: dict[str, str], seed: int, qat: float, resampled: tuple[float, ...]) -> RunResult:
    return RunResult(
        key=f"{levels}{seed}", levels=levels, seed=seed, set_digest="d", set_images=8, training_seconds=1.0,
        full_precision=ModelResult(map50_95=0.5, resampled=(0.5,) * len(resampled)),
        ptq=ModelResult(map50_95=0.1, resampled=resampled), qat=ModelResult(map50_95=qat, resampled=resampled),
        data="scenes", images=4, image_size=160, code_version="1",
    )  # fmt: skip


@pytest.mark.parametrize("source", ["data/coco-val128/instances.json", "data/coco-val128", "coco-val128"])
def test_results_name_the_data_set_and_not_its_annotations(source: str) -> None:
    assert data_name(Path(source)) == "coco-val128"


def test_cells_are_every_combination_and_take_what_their_levels_set() -> None:
    cells = list(grid().cells())

    assert [cell.name for cell in cells[:3]] == ["two, all, seed 3", "eight, all, seed 3", "two, no task, seed 3"]
    assert len(cells) == 8
    config = cells[-1].config(Path("runs"))
    assert (config.qat.bits.weight_bits, config.qat.weights.task, config.qat.seed) == (8, 0, 4)
    assert config.synth.seed == 0, "a set is shared by the seeds of training"
    assert not config.qat.targets


def test_sets_are_made_anew_where_their_seed_varies() -> None:
    assert [cell.config(Path("runs")).synth.seed for cell in grid(seeded=["synth"]).cells()][::4] == [3, 4]


def test_a_misspelt_setting_is_found_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("question: q\nbase: {qat: {stepz: 2}}\nfactors: {bits: {eight: {}}}\n")

    with pytest.raises(ConfigError, match="stepz"):
        Grid.read(path)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_of_the_project_is_valid(path: Path) -> None:
    assert list(Grid.read(path).cells())


def test_settings_merge_section_by_section() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}, "d": {}}) == {"a": {"b": 4, "c": 2}, "d": {}}


def test_a_line_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"r\.jsonl"):
        read_results(tmp_path / "r.jsonl")


def test_the_page_holds_rows_against_the_first_of_their_block(tmp_path: Path) -> None:
    experiments, results = tmp_path / "experiments", tmp_path / "results"
    experiments.mkdir()
    (experiments / "bits.yaml").write_text(
        "question: Do more bits help?\nnote: Mind the images.\n"
        "base: {}\nfactors: {bits: {two: {}, eight: {}}}\nseeds: [0, 1]\n"
    )
    for seed, shift in ((0, 0.0), (1, 0.02)):
        append_result(results / "bits.jsonl", result({"bits": "two"}, seed, 0.30 + shift, (0.2, 0.4)))
        append_result(results / "bits.jsonl", result({"bits": "eight"}, seed, 0.40 + shift, (0.3, 0.5)))

    write_page(experiments, results, tmp_path / "accuracy.md")
    once = (tmp_path / "accuracy.md").read_bytes(), (tmp_path / "accuracy" / "bits.svg").read_bytes()
    write_page(experiments, results, tmp_path / "accuracy.md")

    page = once[0].decode()
    assert "seeds 0, 1.\nMind the images.\n" in page
    assert "| two | 8 | 0.100 (0.100 to 0.100) | 0.310 (0.300 to 0.320) | 62.0% ± 55.4 |  |" in page
    assert "| 82.0% ± 55.4 | +10.0 ± 0.0 |" in page, "both moved alike on every resample"
    assert once == ((tmp_path / "accuracy.md").read_bytes(), (tmp_path / "accuracy" / "bits.svg").read_bytes())


def test_the_last_result_of_a_cell_counts() -> None:
    one = grid(factors={"bits": {"two": {}}}, seeds=[0])
    found = [result({"bits": "two"}, 0, qat, (0.1, 0.2)) for qat in (0.2, 0.3)]

    (row,) = rows_of(one, found)
    assert [model.map50_95 for _, model in row.models("qat")] == [0.3]


@pytest.mark.slow
def test_a_grid_runs_and_goes_on_where_it_was(tmp_path: Path) -> None:
    small = {"iterations": 2, "warm_up": 1, "interval": 1}
    base = GRID["base"] | {"synth": {"images": 4, "labels": small, "inversion": {"iterations": 2}}}
    one = grid(base=base, factors={"bits": GRID["factors"]["bits"]}, seeds=[0])

    run_grid(one, tmp_path / "r.jsonl", tmp_path / "work", only="two")
    first = read_results(tmp_path / "r.jsonl")
    run_grid(one, tmp_path / "r.jsonl", tmp_path / "work")

    both = read_results(tmp_path / "r.jsonl")
    assert both[:1] == first and len(both) == 2
    assert both[0].full_precision == both[1].full_precision
    assert both[0].full_precision.map50_95 > 0.5 > both[0].ptq.map50_95
    assert len(both[0].full_precision.resampled) == 200
    assert len(list((tmp_path / "work" / "sets").glob("*/manifest.json"))) == 1
