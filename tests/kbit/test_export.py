"""`kbit export`: from a database's answer to a directory that others load and score the same."""

import argparse
import json
from pathlib import Path

import pandas as pd
import pytest

from evaluation.tasks.loaded_task import load_task
from kbit.export_answer import best_to_export
from orchestrator.errors import InputError
from orchestrator.paths import SHIPPED
from orchestrator.store.reading import read_item_scores, read_results
from orchestrator.store.store import Store
from tests.kbit.command import kbit as here
from tests.kbit.test_cli import kbit

STUDY = """
models: [sotu-neox-32x2, sotu-llama-32x2]
grids: [{bits: [16, 4], block_size: 64, scope: all}]
tasks: sotu_blank
limit: 24
corpora: [{name: sotu, max_tokens: 600}]
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "study.yaml").write_text(STUDY)
    run = kbit("sweep", folder / "study.yaml", "--db", folder / "t.db", "--executor", "local")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "t.db"


def answer(database: Path, output: Path, budget: str = "150KiB", *more: object):
    chosen = ("--budget", budget, "--metric", "cross_entropy", "--family", "sotu-neox")
    return kbit("export", "--from-answer", *chosen, "--db", database, "--output", output, *more)


def test_the_harness_scores_what_the_database_says(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="HFLM needs lm-eval's extra `hf` (accelerate, peft)")
    from lm_eval.models.huggingface import HFLM

    monkeypatch.chdir(tmp_path)
    (tmp_path / "sotu-neox-32x2").mkdir()  # the answer names a model, not a folder
    run = answer(database, tmp_path / "best", "150KiB", "--models", SHIPPED / "models.yaml")
    assert run.returncode == 0, run.stderr
    assert "sotu-neox-32x2 at 4-bit float E2 B64 scope all: cross_entropy" in run.stdout
    store = Store.open(f"sqlite:///{database}")
    rows: pd.DataFrame = read_results(store)
    rows = rows[(rows.model == "sotu-neox-32x2") & (rows.bits == 4) & (rows.task == "sotu_blank")]
    (id_,) = set(rows.experiment_id)
    ours = read_item_scores(store, [id_], "sotu_blank", "acc")[id_]

    lm = HFLM(str(tmp_path / "best"), dtype="float32", device="cpu", batch_size=4)
    task = load_task("sotu_blank", 24).task
    answers = [value for value, _ in lm.loglikelihood(task.instances, disable_tqdm=True)]
    by_item: dict[int, list[float]] = {}
    for request, value in zip(task.instances, answers, strict=True):
        by_item.setdefault(request.doc_id, []).append(value)
    documents = list(task.eval_docs)
    theirs = [
        task.process_results(documents[i], [(v, False) for v in values])["acc"]
        for i, values in sorted(by_item.items())
    ]
    assert list(ours) == theirs
    (stored,) = rows[rows.metric == "acc"].value
    assert stored == pytest.approx(sum(theirs) / len(theirs), abs=1e-12)


def test_an_answer_that_cannot_be_exported_gives_way_and_is_named(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = read_results(Store.open(f"sqlite:///{database}"))
    better = results[results.bits == 4].assign(
        activations="token 8", experiment_id=lambda rows: "x" + rows.experiment_id,
        value=lambda rows: rows.value * 0.9,
    )  # fmt: skip
    asked = argparse.Namespace(
        budget="150KiB", family="sotu-neox", metric="cross_entropy", task=None, format="kbit"
    )
    plain = best_to_export(results, asked, "here")
    assert capsys.readouterr().out == ""
    assert best_to_export(pd.concat([results, better]), asked, "here") == plain
    said = capsys.readouterr().out
    assert said.startswith("left out: sotu-neox-32x2, ") and "neither fold nor round" in said
    for rows, budget, why in (
        (better, "150KiB", "neither fold nor round what they read; there is no other setting"),
        (pd.concat([results[results.bits == 16], better]), "150KiB", "can be exported: no exp"),
        (results, "1KiB", "no experiment fits 1KiB; the smallest takes [0-9.]+ KiB$"),
    ):
        with pytest.raises(InputError, match=why):
            best_to_export(rows, argparse.Namespace(**{**vars(asked), "budget": budget}), "here")


def test_the_model_must_be_what_was_measured(database: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(SHIPPED / "models" / "sotu-neox-32x2", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    models = {
        "families": {
            "sotu-neox": {
                "tokenizer": str(SHIPPED / "models" / "tokenizer"),
                "models": [{"name": "sotu-neox-32x2", "path": "model"}],
            }
        }
    }
    (tmp_path / "models.yaml").write_text(json.dumps(models))
    run = answer(database, tmp_path / "x", "150KiB", "--models", tmp_path / "models.yaml")
    assert run.returncode == 2 and "are not those that were measured" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", 4], "give a model"),
        (["--from-answer"], "give --budget"),
        (["--from-answer", "--budget", "1MiB", "--bits", 4], "the answer says bits"),
        (["sotu-llama", "--bits", 4], "is a family"),
        (["sotu-llama-32x2", "--bits", 1], "bits: 1 is not"),
        (["sotu-llama-32x2", "--bits", 16], "nothing to export"),
        ([f"{Path(__file__).parent}/x.gguf"], "x.gguf is not a directory"),
        (["sotu-llama-32x2", "--budget", "1MiB"], "goes with --from-answer"),
        (["sotu-llama-32x2", "--rounding", "gptq"], "name it by --calibration"),
        (
            ["sotu-llama-32x2", "--rounding", "gptq", "--calibration", "{corpus: sotu, seed: -1}"],
            "--calibration: seed: takes numbers from 0 on, not -1",
        ),
        (["sotu-llama-32x2", "--format", "compressed-tensors"], "only data type int"),
        (["sotu-llama-32x2", "--dtype", "bfloat16"], "--dtype: goes with a directory"),
        (["sotu-llama-32x2", "--format", "gguf"], "a GGUF file's name ends in .gguf"),
    ],
)
def test_mistakes_are_one_line(arguments: list, message: str, database: Path, tmp_path) -> None:
    source = ["--db", database] if "--from-answer" in arguments else []
    given = [*arguments, *source, "--output", tmp_path / "x"]
    run = kbit("export", *given)
    assert run.returncode == 2 and message in run.stderr, run.stderr
    assert len([line for line in run.stderr.splitlines() if line.startswith("error")]) == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (SHIPPED / "models" / "sotu-llama-32x2", ["--data-type", "float"], "only data type int"),
        ("sotu-neox-32x2", [], "architecture 'gpt_neox': GGUF is written of llama, mistral"),
        ("sotu-llama-32x2", [], "layers.0.self_attn.q_proj.weight: "),
    ],
)
def test_what_gguf_does_not_hold_is_one_line(
    model: str, options: list, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf", reason="pip install 'kbit-scaling[gguf]'")
    (tmp_path / "x.gguf").write_text("mine")
    code, _, err = here(
        "export", model, "--data-type", "int", "--block-size", 32, *options, "--format", "gguf",
        "--output", tmp_path / "x.gguf",
    )  # fmt: skip
    assert code == 2 and message in err and len(err.splitlines()) == 1, err
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]
    assert (tmp_path / "x.gguf").read_text() == "mine"


def test_gguf_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantizers.gguf_file.find_spec", lambda name: None)
    code, _, err = here("export", "m", "--format", "gguf", "--output", tmp_path / "x.gguf")
    assert code == 2 and err.endswith("pip install 'kbit-scaling[gguf]'\n"), err


def test_gptq_is_exported_with_its_calibration(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    calibration = "{corpus: sotu, windows: 4, length: 64}"
    run = kbit(
        "export", "sotu-llama-32x2", "--bits", 3, "--data-type", "int", "--block-size", "row",
        "--rounding", "gptq", "--calibration", calibration, "--output", tmp_path / "x",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    nearest = kbit(
        "export", "sotu-llama-32x2", "--bits", 3, "--data-type", "int", "--block-size", "row",
        "--output", tmp_path / "y",
    )  # fmt: skip
    assert nearest.returncode == 0
    ids = torch.arange(64)[None]
    first, second = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)(ids).logits
        for name in "xy"
    )
    assert not torch.equal(first, second)
