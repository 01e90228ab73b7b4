"""`kbit bench latency --shapes`, from measuring to the report's tables."""

import json

import pytest

from analysis.answers.serving import serving_table, stage_table
from analysis.documents.report_serving import serving_tables
from evaluation.speed.serving import Serving, Shape
from kbit.bench_serving import print_serving
from kbit.cli import main
from orchestrator.store.reading import read_results
from orchestrator.store.store import Store
from quantizers.setting import Setting


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(database, what was printed): 16 bit, 4 bit and all integer formats at two shapes."""
    db = tmp_path_factory.mktemp("serving") / "s.db"
    arguments = ["--bits", "16", "4", "--integer", "w8a8", "w4a8", "llm-int8", "--steps", "2"]
    arguments += ["--shapes", "2x9x4", "3x12x1", "--db", str(db), "--format", "json"]
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("kbit.bench_serving.print_frame", lambda frame, form: printed.append(frame))
        assert main(["bench", "latency", "sotu-neox-32x2", *arguments]) == 0
    return db, json.loads(printed[0].to_json(orient="records"))


def test_stages_are_measured_apart(measured):
    _, rows = measured
    assert len(rows) == 5 * 2
    for row in rows:
        batch, _, output = map(int, row["shape"].split("x"))
        assert row["context_ms"] > 0 and (row["step_ms"] is None) == (output == 1)
        latency = row["context_ms"] + (output - 1) * (row["step_ms"] or 0)
        assert row["latency_ms"] == pytest.approx(latency)
        assert row["tokens_per_second"] == pytest.approx(batch * output / latency * 1000)
    assert [row["gain"] for row in rows if row["setting"] == "16-bit"] == [1, 1]


def test_speed_and_memory_stand_beside_those_of_16_bit(monkeypatch):
    printed = []
    monkeypatch.setattr("kbit.bench_serving.print_frame", lambda frame, form: printed.append(frame))
    shape = Shape.parse("8x4x1")
    served = [
        (Setting.make(bits, "int", block_size=64), Serving(shape, seconds, None, peak, False))
        for bits, seconds, peak in ((16, 1.0, 100), (8, 0.5, 60), (4, 0.25, None))
    ]
    print_serving(served, "table")
    assert printed[0]["gain"].tolist() == [1, 2, 4]
    assert printed[0]["less_memory"].tolist()[:2] == [0, pytest.approx(0.4)]
    assert printed[0]["less_memory"].isna().tolist() == [False, False, True]
    print_serving(served[1:], "table")
    assert printed[1][["gain", "less_memory"]].isna().all(axis=None)


def test_the_database_has_what_the_tables_show(measured):
    db, rows = measured
    table = serving_table(read_results(Store.open(f"sqlite:///{db}")))
    assert len(table) == len(rows)
    for row in rows:
        [found] = table[
            (table["setting"] == row["setting"]) & (table["shape"] == row["shape"])
        ].iloc
        assert found["serving_ms"] == pytest.approx(row["latency_ms"])
        assert found["gain"] == pytest.approx(row["gain"])
    assert table["serving_peak_bytes"].isna().all()  # of a CPU: not measured
    stages = stage_table(table)
    assert set(stages["n_context"]) == set(stages["n_step"]) == {1}
    [full] = stages[stages["setting"] == "16-bit"].iloc
    assert full["context_gain"] == full["step_gain"] == 1
    html = "".join(serving_tables(read_results(Store.open(f"sqlite:///{db}"))))
    assert "A8 decomposed" in html and "nan" not in html


def test_without_16_bit_nothing_is_compared(measured):
    results = read_results(Store.open(f"sqlite:///{measured[0]}"))
    table = serving_table(results[results["bits"] != 16])
    assert table["gain"].isna().all() and len(table) == 8
    assert stage_table(table)["step_gain"].isna().all()
    assert serving_table(results.iloc[:0]).empty and serving_tables(results.iloc[:0]) == []


def test_a_shape_beyond_the_learned_positions_is_one_line(capsys):
    arguments = ["--bits", "16", "--shapes", "1x250x20"]
    assert main(["bench", "latency", "sotu-opt-32x2", *arguments]) == 2
    errors = capsys.readouterr().err
    assert "1x250x20: the model has positions for 256 tokens" in errors


@pytest.mark.parametrize("shape", ["8x1024", "0x3x3", "axbxc"])
def test_shapes_that_are_none_are_one_line(capsys, shape):
    assert main(["bench", "latency", "sotu-neox-32x2", "--shapes", shape]) == 2
    errors = capsys.readouterr().err
    assert shape in errors and len(errors.strip().splitlines()) == 1
