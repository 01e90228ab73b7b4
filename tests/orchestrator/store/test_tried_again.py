"""What failed for a file or a network is tried again; what would fail again is not."""

from pathlib import Path

import pytest

from evaluation.data import hub
from orchestrator.run.worker import Worker
from orchestrator.store.store import Store
from orchestrator.study.outcome import Cause
from orchestrator.sweep import main

STUDY = """
models: [sotu-neox-32x2]
grids:
  - {bits: [16, 3], data_type: float, block_size: 64}
"""
WORDS = "The state of the Union is strong. " * 30


def run(study: Path, worker=Worker) -> int:
    command = [str(study), "--db", str(study.parent / "t.db"), "--executor", "local"]
    return main(command, worker)


def causes(study: Path) -> set[Cause]:
    store = Store.open(f"sqlite:///{study.parent}/t.db")
    return {failure.cause for failure in store.failures().values()}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A corpus file that is there, and another."""
    corpora = [tmp_path / name for name in ("a.txt", "b.txt")]
    for corpus in corpora:
        corpus.write_text(WORDS)
    path = tmp_path / "study.yaml"
    path.write_text(f"{STUDY}corpora: [{', '.join(str(corpus) for corpus in corpora)}]\n")
    return path


def test_a_data_file_that_is_back(study, capsys):
    class Losing(Worker):
        """The file goes when the sweep has begun."""

        def run(self, job):
            (study.parent / "b.txt").unlink(missing_ok=True)
            return super().run(job)

    assert run(study, Losing) == 1
    assert causes(study) == {Cause.DATA}
    results = Store.open(f"sqlite:///{study.parent}/t.db").results()
    assert set(results["task"]) == {"a.txt"} and results["bits"].nunique() == 2
    capsys.readouterr()
    (study.parent / "b.txt").write_text(WORDS)  # the same content: the same protocol
    assert run(study) == 0
    output = capsys.readouterr().out
    assert "0 stored, 2 to do" in output and "failed before" not in output
    assert causes(study) == set()


def test_a_hub_that_is_back(study, monkeypatch):
    study.write_text(STUDY + "corpora: [{name: wikitext2, max_tokens: 500}]\n")
    rows = {"train": [], "test": [{"text": WORDS}] * 5}

    def load(path, split="test", **_):
        if not there:
            raise ConnectionError("no route to host")
        return rows["test"]

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setattr(hub, "_failed", {})
    # It answers before any work, and is gone when a worker asks.
    monkeypatch.setattr("orchestrator.run.stages.check_hub", lambda protocols: list(protocols))
    there = False
    assert run(study) == 1
    assert causes(study) == {Cause.DATA}
    there = True
    hub._failed.clear()  # as in another process
    assert run(study) == 0


def test_what_cannot_be_done_is_not_tried_again_but_what_else_is_asked(study, monkeypatch, capsys):
    # As of a model on the hub, whose config is not here yet.
    monkeypatch.setattr("orchestrator.study.context_check.context_of", lambda entry: None)
    whole = study.read_text()
    study.write_text(whole + "context: 512\n")
    assert run(study) == 1
    assert causes(study) == {Cause.ASKED}
    capsys.readouterr()
    assert run(study) == 1
    assert "2 failed before" in capsys.readouterr().out
    study.write_text(whole)  # the model's own context: another protocol
    assert run(study) == 0
    assert "2 to do" in capsys.readouterr().out
