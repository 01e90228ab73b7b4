"""Local data through a whole sweep, and what only a loaded model can tell about bad input."""

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from evaluation.engine.engine import Engine
from evaluation.protocols import perplexity_protocol, task_protocol
from orchestrator.paths import ROOT
from orchestrator.run.measuring import measure
from orchestrator.run.worker import Worker
from orchestrator.store.store import Store
from orchestrator.study.experiment import Experiment, Protocol
from orchestrator.study.job import Job
from orchestrator.study.models import ModelEntry
from orchestrator.sweep import main
from quantizers.loading import load_model
from quantizers.setting import Setting
from tests.orchestrator.conftest import TO_16_BIT

OWN = ROOT / "tests" / "evaluation" / "own_items"


def sweep(study: Path) -> int:
    return main([str(study), "--db", str(study.parent / "t.db"), "--executor", "local"])


def embedded() -> ModelEntry:
    folder = ROOT / "models"
    return ModelEntry(
        family="f",
        name="m",
        path=str(folder / "sotu-neox-32x2"),
        tokenizer=str(folder / "tokenizer"),
    )


def test_a_sweep_on_local_data_needs_no_hub(study, tmp_path):
    (tmp_path / "web.txt").write_text("The state of the Union is strong. " * 50)
    local = f"""
tasks:
  - {{name: piqa, data_files: {OWN / "piqa.jsonl"}}}
  - {{name: copa, data_files: {OWN}}}
corpora:
  - {{name: c4, data_files: {tmp_path / "web.txt"}}}
"""
    text = study.read_text().replace(*TO_16_BIT).split("tasks:")[0]
    study.write_text(text + local)
    assert sweep(study) == 0
    results = Store.open(f"sqlite:///{study.parent}/t.db").results()
    items = results.groupby("task")["n_items"].first()
    assert items["piqa"] == 5 and items["copa"] == 4 and items["c4"] > 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "café".encode("latin-1"), "is not UTF-8 text"),
        ("a.txt", b"", "has no text"),
        ("a.jsonl", b'{"content": "x"}', "no text in a field `text`"),
        ("a.jsonl", b'{"text": "a \\ud83d b"}', "half of a surrogate pair"),
        ("piqa.csv", b"goal,sol1\nx,y\n", "it lacks sol2"),
    ],
)
def test_data_that_cannot_be_scored_is_told_before_any_work(
    study, tmp_path, monkeypatch, capsys, name: str, content: bytes, reason: str
):
    """No model is loaded, no database made."""
    monkeypatch.setattr("orchestrator.run.worker.load_model", lambda *_: pytest.fail("loaded"))
    (tmp_path / name).write_bytes(content)
    tasks = f"tasks: [{{name: piqa, data_files: {name}}}]"
    data = tasks if name.startswith("piqa") else f"corpora: [{name}]"
    study.write_text(study.read_text().split("tasks:")[0] + data)
    assert sweep(study) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert reason in line and str(tmp_path / name) in line
    assert not list(tmp_path.glob("t.db*"))


def test_marks_and_long_fields_of_tables_are_no_mistakes(study, tmp_path):
    (tmp_path / "piqa.csv").write_text(
        f"\ufeffgoal,sol1,sol2,label\n{'long ' * 40_000},b,c,1\n", encoding="utf-8"
    )
    data = "tasks: [{name: piqa, data_files: piqa.csv}]"
    study.write_text(study.read_text().split("tasks:")[0] + data)
    assert main([str(study), "--db", str(tmp_path / "t.db"), "--dry-run"]) == 0


def test_a_context_longer_than_the_models_is_a_stored_failure(study, monkeypatch):
    """Where the model's config was not known before, as one on the hub may not be."""
    monkeypatch.setattr("orchestrator.study.context_check.context_of", lambda entry: None)
    study.write_text(study.read_text().replace(*TO_16_BIT) + "context: 512\n")
    assert sweep(study) == 1
    (error,) = Store.open(f"sqlite:///{study.parent}/t.db").failed_experiments().values()
    assert "context 512 exceeds the 256 tokens" in error and "\n" not in error


@pytest.mark.parametrize("vocabulary", [300, 2100])
def test_a_tokenizer_of_another_model_is_refused(tmp_path, vocabulary):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([(ROOT / "README.md").read_text()], trainer)
    tokenizer.add_tokens([f"<{i}>" for i in range(vocabulary - 300)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    entry = embedded().model_copy(update={"tokenizer": str(tmp_path)})
    message = (
        f"model m: {vocabulary} tokens in the tokenizer, 2048 embeddings.*matching `tokenizer:`"
    )
    with pytest.raises(ValueError, match=message):
        load_model(entry.checkpoint, "cpu")


def test_data_that_changes_on_the_way_is_not_filed_under_the_old_id(tmp_path):
    model, tokenizer = load_model(embedded().checkpoint, "cpu")
    engine = Engine(model.float(), tokenizer)
    text = tmp_path / "web.txt"
    text.write_text("The state of the Union is strong. " * 20)
    corpus = Protocol("c4", "corpus", perplexity_protocol("c4", 64, None, str(text)), "c4")
    items = tmp_path / "piqa.jsonl"
    items.write_bytes((OWN / "piqa.jsonl").read_bytes())
    settings = task_protocol("piqa", 2, str(items)) | {"context": None}
    task = Protocol("piqa", "task", settings, "piqa")
    for protocol, path in ((corpus, text), (task, items)):
        protocol = replace(protocol, data_files=str(path))
        measure(engine, protocol)
        path.write_text(path.read_text() + path.read_text())
        with pytest.raises(ValueError, match=f"{protocol.task}: its data changed since"):
            measure(engine, protocol)


def test_a_model_that_does_not_load_is_read_once_for_all_its_experiments(monkeypatch):
    read = []

    def load(checkpoint, device):
        read.append(checkpoint.name)
        raise ValueError("no such tensors")

    monkeypatch.setattr("orchestrator.run.worker.load_model", load)
    worker = Worker()
    jobs = [
        Job(Experiment(embedded(), "main", Setting.make(bits, "int"), "float32"), [], "cpu", 1)
        for bits in (3, 4, 5)
    ]
    results = [worker.run(job) for job in jobs]
    assert {(r.status, r.error) for r in results} == {("failed", "ValueError: no such tensors")}
    assert read == ["m"]
