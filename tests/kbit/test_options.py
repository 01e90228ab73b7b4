"""Options of every command: numbers that are none, and options that would do nothing."""

import argparse
from collections.abc import Iterator
from importlib import import_module

import pytest

from kbit.cli import COMMANDS
from kbit.importing import KNOWN
from tests.kbit.command import kbit

# What is looked for among rows, where any other value is said to be missing.
LOOKED_FOR = {("results", name) for name in ("--bits", "--seed", "--step")}


def numbers() -> Iterator[tuple[str, str]]:
    """Every option of a command that takes a number."""
    for name, (module, _) in COMMANDS.items():
        parser = argparse.ArgumentParser()
        import_module(module).add_arguments(parser)
        yield from ((name, option) for option in _numbers(parser, name))


def _numbers(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _numbers(inner, name)
        elif action.type is not None and _is_number(action.type):
            option = action.option_strings[0]
            checked = action.type not in (int, float)
            assert checked or (name, option) in LOOKED_FOR, f"{name} {option}: any number goes"
            if checked:
                yield option


def _is_number(kind) -> bool:
    try:
        return isinstance(kind("8"), int | float)
    except (TypeError, ValueError, argparse.ArgumentTypeError):
        return False


NEEDED = {"bench": ["latency", "m"], "plant": ["m", "--output", "o"], "qat": ["m"]}
NEEDED |= {"analyze": ["m"], "outliers": ["m"]}


@pytest.mark.parametrize(("command", "option"), numbers())
def test_a_number_that_is_none_is_one_line(command, option):
    for value in ("nan", "inf", "-1", "-inf", "1e999", "many", ""):
        if command == "export":  # factors, spelled as in sweep files
            continue
        code, out, err = kbit(command, *NEEDED.get(command, []), f"{option}={value}")
        assert code == 2 and len(err.splitlines()) == 1 and not out, err
        assert option in err and "is not a" in err and "--help" in err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["optimal", "--context", 64], "--context: goes with --memory"),
        (["optimal", "--budget", "1MiB", "--batch", 2], "--batch: goes with --memory"),
        (["optimal", "--memory", "1MiB", "--batch", 2], "--batch: goes with --context"),
        (["optimal", "--memory", "1MiB", "--axis", "total"], "--axis: does nothing beside"),
        (["optimal", "--degradation", "--metric", "perplexity"], "--metric: does nothing beside"),
        (["optimal", "--degradation", "--axis", "nominal"], "--axis: does nothing beside"),
        (["export", "m", "--family", "f", "--output", "o"], "--family: goes with --from-answer"),
        (["export", "m", "--db", "x.db", "--output", "o"], "--db: goes with --from-answer"),
        (["export", "m", "--calibration", "sotu", "--output", "o"], "--calibration: goes with"),
        (["export", ".", "--models", "m.yaml", "--output", "o"], "--models: does nothing beside"),
        (["export", "m", "--data-type", "int", "--exponent-bits", 2, "--output", "o"], "only the"),
        (["bench", "latency", "m", "--shapes", "table6", "--batch", 2], "--batch: does nothing"),
        (["bench", "latency", "m", "--bits", 16, "--data-type", "int"], "--data-type: goes with"),
        (["bench", "latency", "m", "--bits", 16, "--block-size", 8], "--block-size: goes with"),
        (["analyze", "m", "--seed", 0], "--seed: goes with --plant"),
        (["sweep", "--executor", "local", "--wait"], "--wait: goes with --executor ray"),
        (["status", "--failed", "--worse"], "not allowed with"),
        (["optimal", "--budget", "1MiB", "--reach", 1], "not allowed with"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(given, words):
    code, _, err = kbit(*given)
    assert code == 2 and words in err and len(err.splitlines()) == 1, err


def test_a_column_that_the_file_has_is_not_set(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("family,model,n_params,bits,task,metric,value\nf,m,10,16,t,acc,0.5\n")
    for name in ("family", "bits"):
        code, _, err = kbit("import", table, "--set", f"{name}=4", "--db", tmp_path / "t.db")
        assert code == 2 and f"leave out --set {name}" in err and len(err.splitlines()) == 1
    assert "block_size" in KNOWN
    assert kbit("import", table, "--set", "source=x", "--db", tmp_path / "t.db")[0] == 2
