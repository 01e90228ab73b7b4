"""What ids bear: every byte of local weights, commits of the hub; and rows that are found again."""

import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.errors import ModelInputError
from orchestrator.paths import ROOT
from orchestrator.store.store import Store
from orchestrator.study import digests, identity
from orchestrator.study.grid import as_stored, expand
from orchestrator.study.identity import Identified, identify
from orchestrator.study.models import ModelEntry, load_models
from orchestrator.study.spec import load_sweep
from orchestrator.sweep import main
from quantizers.checkpoint import UnusableModel
from quantizers.hub import HubUnreachable

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model with 70 MB in one weight file, of which 64 blocks of 1 MiB used to be read."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    write(folder, 0.0)
    return folder


def write(folder: Path, between: float) -> None:
    """Weights of which one between the samples has this value; older than a tick of the clock."""
    weights = torch.zeros(35_000_000, dtype=torch.float16)
    weights[530_000] = between  # near byte 1,060,000, between samples of 1,048,576 and 1,094,467
    file = folder / "model.safetensors"
    save_file({"w": weights}, file)
    os.utime(file, (time.time() - 60 - between,) * 2)


def entry(folder: Path, name: str = "m") -> ModelEntry:
    return ModelEntry(family="f", name=name, path=str(folder))


TOKENIZER = "local-ce35a4f3397d3987d7425b6a"


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("sotu-neox-32x2", "local-c4a5be3952d566053adb9ec9"),
        ("sotu-neox-128x4", "local-84c5fa6c478f4021aa2b51ff"),
        ("sotu-opt-64x4", "local-5ed23c17970dd49743d414cc"),
    ],
)
def test_revisions_of_files_up_to_64_mib_stay(name: str, digest: str) -> None:
    (model,) = [e for entries in load_models().values() for e in entries if e.name == name]
    assert identify(model) == Identified(model, f"{digest}+{TOKENIZER}", None)


def test_every_byte_of_a_large_file_counts(large: Path) -> None:
    before = identify(entry(large))
    write(large, 1.0)
    after = identify(entry(large))
    assert after.revision != before.revision
    assert after.earlier == before.earlier is not None  # what earlier versions took both for


def test_large_files_are_hashed_once(large: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path / "cache"))
    hashed = []
    digest = digests.hashlib.file_digest
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda *a: hashed.append(1) or digest(*a))
    first = identify(entry(large))
    assert identify(entry(large)) == first and len(hashed) == 1
    write(large, 2.0)
    assert identify(entry(large)) != first and len(hashed) == 2
    kept = tmp_path / "cache" / "digests.json"
    for damage in ("{", "[]", json.dumps({str(large / "model.safetensors"): [1]})):
        kept.write_text(damage)
        assert identify(entry(large)) == identify(entry(large))
    os.utime(large / "model.safetensors")  # written this moment: may change within the tick
    hashed.clear()
    assert identify(entry(large)) == identify(entry(large))
    assert len(hashed) == 2
    monkeypatch.setenv("KBIT_CACHE", "/proc/nowhere")  # cannot be made
    assert identify(entry(large)).earlier == first.earlier


@pytest.fixture
def hub(monkeypatch) -> dict:
    """What the hub says of any model's branch: a commit, or an error to raise."""
    said: dict = {"commit": COMMIT}

    def resolve(repo: str, revision: str | None) -> str:
        if isinstance(said["commit"], Exception):
            raise said["commit"]
        return said["commit"]

    monkeypatch.setattr(identity, "resolve_commit", resolve)
    return said


def test_branches_become_commits(hub) -> None:
    model = ModelEntry(family="f", name="m", hub="x/m")
    found = identify(model)
    assert (found.entry.revision, found.revision, found.earlier) == (COMMIT, COMMIT, "main")
    apart = identify(model.model_copy(update={"tokenizer": "x/t", "revision": "step1"}))
    assert apart.entry.tokenizer == f"x/t@{COMMIT}"
    assert re.fullmatch(COMMIT + r"\+hub-\w{24}", apart.revision)
    assert apart.earlier == "step1+hub-" + hashlib.sha256(b"x/t").hexdigest()[:24]
    assert identify(apart.entry) == apart._replace(earlier=None)
    hub["commit"] = HubUnreachable("gone")
    assert identify(model) == Identified(model, "main", None)
    hub["commit"] = UnusableModel("x/m@main: the hub has no such repository")
    with pytest.raises(ModelInputError, match="model m: x/m@main: the hub has no such"):
        identify(model)


def test_rows_under_an_earlier_name_belong_to_the_first_that_asks(tmp_path, hub) -> None:
    """Stored before names were resolved, found after, and not by the branch's next commit."""
    file = tmp_path / "models.yaml"
    file.write_text("families: {f: {models: [{name: m, hub: x/m}, {name: n, hub: x/n}]}}")
    sweep = tmp_path / "s.yaml"
    sweep.write_text("{models: f, grids: [{bits: [16, 4]}], corpora: [sotu]}")
    store = Store.create(f"sqlite:///{tmp_path}/t.db")

    def ids() -> dict[str, set[str]]:
        plan = expand(load_sweep(sweep), load_models(file), sweep, on_gpu=False)
        plan = as_stored(plan, store.revision_of)
        return {n: {e.id for e in plan.experiments if e.model.name == n} for n in ("m", "n")}

    hub["commit"] = HubUnreachable("gone")
    stored = ids()
    plan = expand(load_sweep(sweep), load_models(file), sweep, on_gpu=False)
    record(store, [e for e in plan.experiments if e.model.name == "m"])
    hub["commit"] = COMMIT
    found = ids()
    assert found["m"] == stored["m"] and found["n"].isdisjoint(stored["n"])
    readers = Store.open(store.url)
    assert readers.revision_of(identify(load_models(file)["f"][0])) == "main"
    hub["commit"] = OTHER  # the branch has moved
    assert ids()["m"].isdisjoint(stored["m"])
    hub["commit"] = COMMIT
    assert ids()["m"] == stored["m"]


def record(store: Store, experiments) -> None:
    from orchestrator.study.job import Job, JobResult

    store.record(*(JobResult(Job(e, [], "cpu", 1), "done") for e in experiments))


def test_a_wrong_size_is_corrected_and_said(study, tmp_path, capsys) -> None:
    folder = tmp_path / "m"
    shutil.copytree(ROOT / "models" / "sotu-neox-32x2", folder)
    shutil.copy(ROOT / "models" / "tokenizer" / "tokenizer.json", folder)
    shutil.copy(ROOT / "models" / "tokenizer" / "tokenizer_config.json", folder)
    weights = (folder / "model.safetensors").read_bytes()
    file = tmp_path / "models.yaml"
    file.write_text(
        json.dumps({"families": {"f": {"models": [
            {"name": "sotu-neox-32x2", "path": str(folder), "n_params": 7}
        ]}}})
    )  # fmt: skip
    database = str(tmp_path / "t.db")
    command = [str(study), "--db", database, "--executor", "local", "--models", str(file)]
    study.write_text(study.read_text().replace("tasks: [sotu_blank]\n", ""))
    assert main(command) == 0
    said = "models.yaml says n_params 7, the model has 156544"
    assert capsys.readouterr().out.count(said) == 1
    assert set(Store.open(f"sqlite:///{database}").results()["n_params"]) == {156544}
    assert weights == (folder / "model.safetensors").read_bytes()
