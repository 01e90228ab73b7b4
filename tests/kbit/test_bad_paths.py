"""Every path that a command takes, where nothing usable is: one line of ours, whatever it is."""

import argparse
from collections.abc import Iterator
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import pytest

import orchestrator.run.worker  # noqa: F401  keeps the loader that it imports, not the stand-in
from evaluation.shipped import SHIPPED
from kbit.cli import COMMANDS
from orchestrator.study import models
from tests.kbit.command import kbit

MODEL = "sotu-neox-32x2"
STUDY = f"{{models: [{MODEL}], grids: [{{bits: 16}}], corpora: [sotu]}}"
# What is read or written, though its type is text: a path may be given, or a name.
ALSO_NAMES = {"--db", "--corpus", "--text", "--calibration", "first", "second", "databases"}
ALSO_NAMES |= {("train", "model"), ("export", "model")}
# What a command needs beside the argument that is wrong.
NEEDED: dict[str, list[str]] = {
    "analyze": [MODEL, "--windows", "1"],
    "bench": ["latency", MODEL, "--bits", "16", "--batch", "1", "--steps", "1"],
    "compare": ["no.db", "none.db"],
    "convert": ["no.gguf", "--output", "new"],
    "export": [MODEL, "--output", "new", "--bits", "4", "--rounding", "gptq"],
    "export-dataset": ["--output", "new"],
    "figures": ["--only", "figure-06"],
    "import": ["no.csv"],
    "merge": ["no.db", "none.db", "--output", "new.db"],
    "outliers": [MODEL, "--max-tokens", "64"],
    "plant": [MODEL, "--output", "new"],
    "qat": [MODEL, "--steps", "1"],
    "score-study": ["training", "--executor", "local"],
    "study": ["--text-only"],
    "sweep": ["study.yaml", "--executor", "local"],
    "train": [MODEL, "--output", "new"],
    "train-study": ["training", "--executor", "local"],
}


def paths() -> Iterator[tuple[str, argparse.Action]]:
    for name, (module, _) in COMMANDS.items():
        parser = argparse.ArgumentParser()
        import_module(module).add_arguments(parser)
        yield from ((name, action) for action in _paths(parser, name))


def _paths(parser: argparse.ArgumentParser, command: str) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _paths(inner, command)
            continue
        spelled = action.option_strings[0] if action.option_strings else action.dest
        if action.type is Path or {spelled, (command, spelled)} & ALSO_NAMES:
            yield action


def line(command: str, action: argparse.Action, place: Path | str) -> list[str]:
    """The command with `place` for that argument."""
    given = NEEDED.get(command, [])
    first = given[0] if given else ""
    if action.option_strings:
        option = action.option_strings[0]
        if option in given:  # one that is needed
            at = given.index(option)
            given = [*given[:at], *given[at + 2 :]]
        return [*given, option, str(place)]
    if action.dest == "second":
        return [first, str(place)]
    return [str(place), *given[0 if first.startswith("-") else 1 :]]


class Reached(Exception):
    """The work begins: all that is given would do."""


@pytest.fixture(autouse=True)
def no_work(monkeypatch) -> None:
    def begin(*_, **__):
        raise Reached

    for work in (
        "quantizers.loading.load_model",
        "training.train.train",
        "training.tokenizer.train_tokenizer",
        "orchestrator.run.stages.Stages.run",
        "quantizers.export.conversion.export",
        "evaluation.speed.roofline.copy_bandwidth",
    ):
        monkeypatch.setattr(work, begin)


SHIPPED_MODELS = models.load_yaml(SHIPPED / "models.yaml")


@pytest.fixture(autouse=True)
def shipped_models_are_parsed_once(monkeypatch) -> None:
    """The file that nearly every command reads whole, whatever path is tested."""
    load = models.load_yaml

    def known(path: Path) -> object:
        return deepcopy(SHIPPED_MODELS) if path == SHIPPED / "models.yaml" else load(path)

    monkeypatch.setattr(models, "load_yaml", known)


@pytest.fixture
def places(tmp_path: Path, monkeypatch) -> dict[str, Path | str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBIT_RESULTS", str(tmp_path / "results"))
    (tmp_path / "bytes").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for kind in ("json", "yaml", "db"):
        (tmp_path / f"bytes.{kind}").write_bytes(bytes(range(256)) * 8)
        (tmp_path / f"list.{kind}").write_text("[1, {]\n")
    (tmp_path / "study.yaml").write_text(STUDY)
    return {
        "nothing": tmp_path / "none",
        "below nothing": tmp_path / "none" / "x",
        "below a file": tmp_path / "bytes" / "x",
        "bytes": tmp_path / "bytes",
        "empty": tmp_path / "empty",
        "a folder": tmp_path / "folder",
        "a link to itself": tmp_path / "loop",
        "a name too long": tmp_path / ("x" * 300),
        "another's home": "~nobody-of-this-name/x",
        "an empty name": "",
        **{f"bytes as {kind}": tmp_path / f"bytes.{kind}" for kind in ("json", "yaml", "db")},
        **{f"half of a list as {kind}": tmp_path / f"list.{kind}" for kind in ("json", "yaml")},
    }


@pytest.mark.parametrize(
    ("command", "action"),
    [
        pytest.param(c, a, id=f"{c} {a.option_strings[0] if a.option_strings else a.dest}")
        for c, a in paths()
    ],
)
def test_it_ends_in_one_line(command: str, action: argparse.Action, places) -> None:
    for name, place in places.items():
        given = [command, *line(command, action, place)]
        try:
            code, _, err = kbit(*given)
        except Reached:
            continue
        said = [said for said in err.splitlines() if not said.startswith("database: ")]
        assert "Errno" not in err and "Traceback" not in err, (name, err)
        assert code in (0, 2, 3) and len(said) <= (code != 0), (name, given, code, err)
        assert not code or said[0].startswith("error: "), (name, given, code, err)
