"""Where commands write: said in one line, before any work, and nothing is made beside it."""

import argparse
from importlib import import_module
from pathlib import Path

import pytest

from kbit.cli import COMMANDS
from tests.kbit.command import kbit

# What each needs beside --output; nothing of it is there, so any work would be another complaint.
NEEDED = {
    "convert": ["no.gguf"],
    "export": ["no-model"],
    "export-dataset": ["--db", "no.db"],
    "figures": ["--db", "no.db"],
    "merge": ["no.db", "none.db"],
    "plant": ["no-model"],
    "qat": ["no-model"],
    "report": ["--db", "no.db"],
    "train": ["no-model"],
}
FILES = {"report", "merge"}  # the others make a folder


def test_every_command_that_writes_is_here():
    written = set()
    for name, (module, _) in COMMANDS.items():
        parser = argparse.ArgumentParser()
        import_module(module).add_arguments(parser)
        if any("--output" in action.option_strings for action in parser._actions):
            written.add(name)
    assert written == set(NEEDED)


@pytest.mark.parametrize("command", NEEDED)
def test_a_place_that_takes_nothing_is_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    wrong = "folder" if command in FILES else "file"
    for place, words in (
        (tmp_path / wrong, "is there already" if command == "convert" else f"a {wrong}"),
        (tmp_path / "none" / "x", "none: no such folder"),
        (tmp_path / "file" / "x", "file: is a file"),
    ):
        code, out, err = kbit(command, *NEEDED[command], "--output", place)
        assert code == 2 and len(err.splitlines()) == 1 and not out, err
        assert (words in err or "is there already" in err) and str(place) in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc on this machine")
@pytest.mark.parametrize("command", NEEDED)
def test_a_folder_that_only_seems_to_take_files_is_told_before_any_work(command: str) -> None:
    """Root may write in /proc, say its permissions, and cannot."""
    code, out, err = kbit(command, *NEEDED[command], "--output", "/proc/q")
    assert code == 2 and not out and len(err.splitlines()) == 1, err
    assert "--output /proc: nothing can be written there; give another" in err


def test_a_results_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KBIT_RESULTS", str(tmp_path / "file" / "results"))
    table = tmp_path / "t.csv"
    table.write_text("family,model,n_params,bits,task,metric,value\nf,m,10,16,t,acc,0.5\n")
    for given in (["demo", "--executor", "local"], ["import", table], ["figures"]):
        code, _, err = kbit(*given)
        assert code == 2 and "KBIT_RESULTS=" in err and "--db" not in err, err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["import", "analyze", "bench"])
def test_a_folder_of_a_database_that_cannot_be_made_is_named(command, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    table = tmp_path / "t.csv"
    table.write_text("family,model,n_params,bits,task,metric,value\nf,m,10,16,t,acc,0.5\n")
    model = ["sotu-neox-32x2"]
    given = {"import": [table], "analyze": model, "bench": ["latency", *model]}[command]
    code, _, err = kbit(command, *given, "--db", tmp_path / "file" / "x" / "t.db")
    assert code == 2 and f"{tmp_path}/file/x: cannot be made" in err, err
    assert len(err.splitlines()) == 1
