"""Published numbers come in whole and marked, or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from analysis.answers.optimal import optimal
from kbit.output import print_frame
from orchestrator.errors import InputError
from orchestrator.store.importing import read_import, store_rows
from orchestrator.store.reading import read_results
from orchestrator.store.store import Store
from tests.orchestrator.store.older import make_older

HEADER = "family,model,n_params,bits,data_type,block_size,method,task,metric,value,stderr"
GOOD = """
llama,llama-7b,6738415616,16,,,,wikitext2,perplexity,5.68,
llama,llama-7b,6738415616,4,int,,rtn,wikitext2,perplexity,6.29,
llama,llama-7b,6738415616,4,int,,gptq,wikitext2,perplexity,6.09,
llama,llama-13b,13015864320,16,,,,wikitext2,perplexity,5.09,
llama,llama-13b,13015864320,4,int,,rtn,wikitext2,perplexity,5.53,
llama,llama-13b,13015864320,4,int,,gptq,wikitext2,perplexity,5.36,0.01
""".strip()


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(f"{HEADER}\n{GOOD}\n")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(f"sqlite:///{tmp_path}/t.db")


def broken(csv: Path, row: str) -> str:
    """The complaint about the file with `row` as its fifth line."""
    lines = csv.read_text().splitlines()
    csv.write_text("\n".join([*lines[:4], row, *lines[4:]]) + "\n")
    with pytest.raises(InputError) as caught:
        read_import(csv, "table", {})
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_rows_become_results(csv: Path, store: Store) -> None:
    assert store_rows(store, read_import(csv, "gptq-readme", {})) == 12
    rows = store.results().query("metric == 'perplexity'").set_index(["model", "method"])
    assert (rows["source"] == "gptq-readme").all() and len(rows) == 6
    row = rows.loc[("llama-13b", "gptq")]
    assert (row["value"], row["stderr"], row["bits"]) == (5.36, 0.01, 4)
    assert row["total_bits"] == row["nominal_bits"] == 4 * 13015864320
    assert rows["block_size"].isna().all()


def test_importing_again_changes_nothing(csv: Path, store: Store) -> None:
    store_rows(store, read_import(csv, "table", {}))
    before = store.results()
    assert store_rows(store, read_import(csv, "table", {})) == 0
    assert store.results().equals(before)


def test_a_value_that_contradicts_the_database_imports_nothing(csv: Path, store: Store) -> None:
    store_rows(store, read_import(csv, "table", {}))
    changed = csv.read_text().replace("5.09", "5.10")
    csv.write_text(changed + "llama,new,5,16,,,,wikitext2,perplexity,7,\n")
    with pytest.raises(InputError, match="5.09 is stored"):
        store_rows(store, read_import(csv, "table", {}))
    assert len(store.results()) == 12
    assert store_rows(store, read_import(csv, "another", {})) == 14


def test_the_same_analysis_as_our_own(csv: Path, store: Store) -> None:
    larger = "llama,llama-30b,32528943616,4,int,,{},wikitext2,perplexity,{},\n"
    csv.write_text(csv.read_text() + larger.format("rtn", 4.54) + larger.format("gptq", 4.45))
    store_rows(store, read_import(csv, "table", {}))
    results = read_results(store, {(None, "cross_entropy")})
    (answer,) = optimal(results, 16 * 7.0e9, metric="cross_entropy")  # where 16 bit begins
    assert answer.setting is not None and answer.setting.method == "gptq"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("llama,m,70,4,int,,rtn,wikitext2,perplexity,six,", "row 5: value 'six' is not a number"),
        ("llama,m,70,4,int,,rtn,wikitext2,perplexity,,", "row 5: value is missing"),
        (",m,70,4,int,,rtn,wikitext2,perplexity,6,", "row 5: family is missing"),
        ("llama,m,-70,4,int,,rtn,t,perplexity,6,", "row 5: n_params '-70' is not a whole"),
        (
            "llama,m,70,17,int,,rtn,t,perplexity,6,",
            "row 5: bits '17' is not above 0",
        ),
        ("llama,m,70,4,,,rtn,t,perplexity,6,", "row 5: data_type is missing at 4 bit"),
        ("llama,m,70,,int,,rtn,t,perplexity,6,", "row 5: give bits or total_bits"),
        ("llama,m,70,4,int,0,rtn,t,perplexity,6,", "row 5: block_size '0' is not a whole"),
        ("llama,m,70,4,int,,rtn,t,perplexity,0.5,", "row 5: perplexity '0.5' is below 1"),
        ("llama,m,70,4,int,,rtn,t,acc,62.5,", "row 5: acc '62.5' is not a fraction"),
        ("llama,m,70,4,int,,rtn,t,acc,0.6,-1", "row 5: stderr '-1' is not a finite"),
        ("llama,m,70,4,int,,rtn,t,acc,0.6,inf", "row 5: stderr 'inf' is not finite"),
        ("llama,m,70,4,int", "row 5: expected 11 cells"),
        ("llama,m,70,4,int,,rtn,t,acc,0.6,,,9", "row 5: expected 11 cells"),
        (
            "llama,llama-7b,6738415616,4,int,,rtn,wikitext2,perplexity,6.3,",
            "row 5: the same experiment, task and metric as row 3",
        ),
    ],
)
def test_bad_rows_are_refused_with_number_and_reason(csv: Path, row: str, reason: str) -> None:
    message = broken(csv, row)
    assert reason in message and "nothing imported" in message


def test_every_bad_row_is_named(csv: Path) -> None:
    with csv.open("a") as file:
        file.write("llama,a,1,4,int,,rtn,t,acc,2,\nllama,a,1,4,int,,rtn,t,acc,x,\n")
    with pytest.raises(InputError, match="row 8: .*; row 9: "):
        read_import(csv, "table", {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no rows"),
        (HEADER, "no rows"),
        (f"{HEADER},colour\n", "row 1: unknown column 'colour'"),
        (f"{HEADER},bits\n", "row 1: a column appears twice"),
        ('{"results": 3}', "not an lm-eval result file"),
        ('{"results": {"piqa": 3}}', "it needs `results` of tasks and their metrics$"),
        ('{"config": {"limit": Infinity}}', "it needs `results` of tasks and their metrics$"),
        ("{", "not an lm-eval result file: line 1, column 2: not JSON: Expecting"),
        ('{"results":\n  nul}', "line 2, column 3: not JSON: Expecting value$"),
    ],
)
def test_files_that_are_not_tables(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        read_import(path, "x", {})
    with pytest.raises(InputError, match="no such file"):
        read_import(tmp_path / "none.csv", "x", {})


def test_bits_are_a_number(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "t.csv"
    rows = [f"f,m,1000,{bits},int,qat,t,cross_entropy,3" for bits in (16, 4, 2.5, 1.58, 1)]
    path.write_text("family,model,n_params,bits,data_type,method,task,metric,value\n")
    path.write_text(path.read_text() + "\n".join(rows))
    assert store_rows(store, read_import(path, "t", {})) == 5
    stored = store.results().set_index("bits")
    assert stored["bits_per_param"].to_dict() == {b: b for b in (16, 4, 2.5, 1.58, 1)}
    assert stored["total_bits"].to_dict()[1.58] == 1580
    print_frame(store.results(), "csv")
    again = tmp_path / "again.csv"
    again.write_text(capsys.readouterr().out)
    assert ",4,int," in again.read_text() and ",4.0,int" not in again.read_text()
    assert [r.experiment for r in read_import(again, "t", {})] == [
        r.experiment for r in read_import(path, "t", {})
    ]


def test_bits_are_not_guessed_from_a_size_between_two(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    head = "family,model,n_params,total_bits,data_type,task,metric,value\n"
    path.write_text(head + "f,m,1000,2500,int,t,acc,0.5\n")
    with pytest.raises(InputError, match=r"total_bits / n_params is 2\.5 bits: give bits"):
        read_import(path, "t", {})


def test_total_bits_stand_in_for_bits_and_sizes_must_agree(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "t.csv"
    head = "family,model,n_params,total_bits,data_type,task,metric,value\n"
    path.write_text(head + "f,m,1000,4250,float,t,acc,0.5\nf,m,1000,16000,,t,acc,nan\n")
    rows = read_import(path, "t", {})
    assert [row.experiment["bits"] for row in rows] == [4, 16]
    assert rows[0].experiment["total_bits"] == 4250 and rows[1].measurement["value"] is None
    store_rows(store, rows)
    assert np.isnan(store.results().set_index("bits").loc[16, "value"])
    path.write_text(head + "f,m,1000,4250,float,t,acc,0.5\nf,m,1000,4300,float,u,acc,0.5\n")
    with pytest.raises(InputError, match="row 3: the same model and setting as row 2"):
        read_import(path, "t", {})
    path.write_text(head + "f,m,1000,4300,float,u,acc,0.5\n")
    with pytest.raises(InputError, match="another size"):
        store_rows(store, read_import(path, "t", {}))
    assert len(store.results()) == 2


def test_what_kbit_results_writes_can_be_read(csv: Path, store: Store, tmp_path: Path) -> None:
    store_rows(store, read_import(csv, "table", {}))
    store.results().to_csv(tmp_path / "out.csv", index=False)
    again = Store.create(f"sqlite:///{tmp_path}/again.db")
    assert store_rows(again, read_import(tmp_path / "out.csv", "table", {})) == 12
    mine, theirs = store.results(), again.results()
    assert mine.equals(theirs)


def test_lm_eval_results(tmp_path: Path, store: Store) -> None:
    content = {
        "results": {
            "piqa": {
                "alias": "piqa",
                "acc,none": 0.71,
                "acc_stderr,none": 0.0106,
                "acc_norm,none": 0.72,
                "acc_norm_stderr,none": "N/A",
            },
            "wikitext": {"word_perplexity,none": 12.5},
        },
        "n-samples": {"piqa": {"original": 1838, "effective": 1838}},
        "model_name": "facebook/opt-1.3b",
        "config": {"model_num_parameters": 1315758080},
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    defaults = {"family": "opt", "bits": "4", "data_type": "float", "block_size": "64"}
    assert store_rows(store, read_import(path, "lm-eval", defaults)) == 3
    rows = store.results().set_index(["task", "metric"])
    piqa = rows.loc[("piqa", "acc")]
    assert (piqa["value"], piqa["stderr"], piqa["n_items"]) == (0.71, 0.0106, 1838)
    assert (piqa["model"], piqa["n_params"]) == ("facebook/opt-1.3b", 1315758080)
    assert piqa["bits_per_param"] == 4.25 and np.isnan(rows.loc[("piqa", "acc_norm"), "stderr"])
    with pytest.raises(InputError, match="results.piqa.acc,none and 2 more: family is missing"):
        read_import(path, "lm-eval", {})
    with pytest.raises(InputError, match="'colour' is unknown"):
        read_import(path, "lm-eval", {"colour": "red"})


LOSSES = """
F,f-1,1000,16,,none,wikitext2,perplexity,5.68,0.05,700
F,f-1,1000,4,int,rtn,wikitext2,perplexity,nan,,
F,f-1,1000,3,int,rtn,wikitext2,perplexity,25.54,,
F,f-1,1000,3,int,rtn,wikitext2,cross_entropy,3.2,,
F,f-1,1000,16,,none,lambada_openai,perplexity,5.1,,
F,f-1,1000,16,,none,lambada_openai,acc,0.6,,
""".strip()


def test_the_logarithm_of_a_perplexity_is_a_cross_entropy(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        f"family,model,n_params,bits,data_type,method,task,metric,value,stderr,n_items\n{LOSSES}\n"
    )
    assert store_rows(store, read_import(path, "t", {})) == 8
    rows = store.results().query("metric == 'cross_entropy'").set_index("bits")
    assert set(rows["task"]) == {"wikitext2"}  # LAMBADA's is the loss of last words, no corpus's
    assert rows.loc[16, "value"] == pytest.approx(np.log(5.68), abs=1e-15)
    assert rows.loc[16, "stderr"] == pytest.approx(0.05 / 5.68) and rows.loc[16, "n_items"] == 700
    assert np.isnan(rows.loc[4, "value"]) and np.isnan(rows.loc[4, "stderr"])
    assert rows.loc[3, "value"] == 3.2 and np.isnan(rows.loc[3, "stderr"])
    assert store_rows(store, read_import(path, "t", {})) == 0


@pytest.mark.parametrize("bits", ["1", "1.58", "2.5", "4"])
def test_a_fraction_of_bits_is_a_precision_of_its_own(
    tmp_path: Path, store: Store, bits: str
) -> None:
    path = tmp_path / "t.csv"
    head = "family,model,n_params,bits,data_type,method,task,metric,value,n_items\n"
    path.write_text(f"{head}H,h,1000,{bits},int,qat,piqa,acc,0.7,1838\n")
    (row,) = read_import(path, "t", {})
    assert row.experiment["bits"] == row.experiment["bits_per_param"] == float(bits)
    assert row.experiment["total_bits"] == 1000 * float(bits)
    store_rows(store, [row])
    (stored,) = store.results().to_dict("records")
    assert str(stored["bits"]) == bits and stored["n_items"] == 1838
    assert np.isnan(stored["stderr"])
    store.results().to_csv(tmp_path / "out.csv", index=False)
    (again,) = read_import(tmp_path / "out.csv", "t", {})
    assert again == row


@pytest.mark.parametrize("total", ["2500", "1580", "500"])
def test_bits_that_a_size_does_not_tell_must_be_given(tmp_path: Path, total: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        f"family,model,n_params,total_bits,data_type,task,metric,value\nf,m,1000,{total},int,t,acc,1\n"
    )
    with pytest.raises(InputError, match="bits: give bits"):
        read_import(path, "t", {})


def test_lm_eval_filters_and_errors_that_are_no_numbers(tmp_path: Path, store: Store) -> None:
    results = """{"results": {
      "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.31,
                "exact_match_stderr,strict-match": 0.012, "exact_match,flexible-extract": 0.34,
                "exact_match_stderr,flexible-extract": Infinity},
      "copa": {"alias": "copa", "acc,none": 0.86, "acc_stderr,none": NaN, "samples,none": [1]},
      "piqa": {"acc,none": 0.78, "acc_stderr,none": 0.0097, "ok,none": true}},
     "n-samples": {"gsm8k": {"effective": 50}, "copa": {"effective": 50}},
     "config": {"model_args": "pretrained=some/model", "limit": 50.0},
     "model_name": "some/model"}"""
    path = tmp_path / "results.json"
    path.write_text(results)
    defaults = {"family": "f", "n_params": "1000", "bits": "16"}
    assert store_rows(store, read_import(path, "t", defaults)) == 4
    rows = store.results().set_index(["task", "metric"])
    assert rows.loc[("gsm8k", "exact_match,strict-match"), "value"] == 0.31
    flexible = rows.loc[("gsm8k", "exact_match,flexible-extract")]
    assert flexible["value"] == 0.34 and np.isnan(flexible["stderr"])
    copa = rows.loc[("copa", "acc")]
    assert np.isnan(copa["stderr"]) and copa["n_items"] == 50
    assert rows.loc[("piqa", "acc"), "stderr"] == 0.0097
    assert set(rows["limit"]) == {50}
    path.write_text(results.replace("0.31", "31"))
    with pytest.raises(InputError, match="exact_match,strict-match 31 is not a fraction"):
        read_import(path, "t", defaults)


@pytest.mark.parametrize("unknown", ["", "nan", "NaN", "NA", "N/A", "<NA>", "null"])
def test_unknown_cells_as_tables_write_them(tmp_path: Path, unknown: str) -> None:
    path = tmp_path / "t.csv"
    head = "family,model,n_params,bits,data_type,block_size,task,metric,value,stderr,n_items\n"
    path.write_text(f"{head}f,m,1000,4,int,{unknown},t,acc,0.5,{unknown},{unknown}\n")
    (row,) = read_import(path, "t", {})
    assert row.experiment["block_size"] is None
    assert row.measurement["stderr"] is None and row.measurement["n_items"] == 0


@pytest.mark.parametrize(
    ("spelled", "size", "by_row"),
    [("", None, False), ("64", 64, False), ("row", None, True), ("group:128", 128, True),
     ("group: 96", 96, True)],
)  # fmt: skip
def test_granularities_as_sweeps_spell_them(tmp_path, store, spelled, size, by_row) -> None:
    path = tmp_path / "t.csv"
    head = "family,model,n_params,bits,data_type,block_size,task,metric,value\n"
    path.write_text(f"{head}f,m,1000,4,int,{spelled},t,acc,0.5\n")
    (row,) = read_import(path, "t", {})
    assert (row.experiment["block_size"], row.experiment["by_row"]) == (size, by_row)
    store_rows(store, [row])
    store.results().to_csv(tmp_path / "out.csv", index=False)
    assert read_import(tmp_path / "out.csv", "t", {}) == [row]
    path.write_text(f"{head}f,m,1000,4,int,group:x,t,acc,0.5\n")
    with pytest.raises(InputError, match="block_size 'x' is not a"):
        read_import(path, "t", {})


def test_perplexities_imported_by_an_earlier_version_have_logarithms_too(csv, store, tmp_path):
    given = csv.read_text() + "llama,llama-7b,6738415616,16,,,,lambada_openai,perplexity,3,\n"
    csv.write_text(given + "llama,llama-7b,6738415616,16,,,,lambada_openai,acc,0.6,\n")
    store_rows(store, read_import(csv, "table", {}))
    now = store.results()
    with store.engine.execution_options(writes=True).begin() as connection:
        connection.execute(text("DELETE FROM measurements WHERE metric = 'cross_entropy'"))
    make_older(store, 1)
    migrated = Store.create(store.url)
    keys = ["model", "method", "task", "metric"]
    before, after = (
        frame.sort_values(keys)[[*keys, "value"]] for frame in (now, migrated.results())
    )
    assert before.values.tolist() == after.values.tolist() and len(after) == 14
