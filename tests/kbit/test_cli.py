"""The command line as a user meets it: answers, formats, and mistakes in one line."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kbit.cli import COMMANDS
from orchestrator.paths import ROOT
from orchestrator.store.schema import RESULT_COLUMNS
from quantizers.setting import SETTING_COLUMNS
from tests.kbit import command

STUDY = """
models: [sotu-neox-32x2, sotu-neox-64x2]
grids:
  - {bits: [16, 4], block_size: 64}
tasks: sotu
limit: 20
corpora:
  - {name: sotu, max_tokens: 1000}
"""


def kbit(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(arguments, *command.kbit(*arguments))


def test_installed_command_refuses_in_one_line():
    command = [Path(sys.executable).parent / "kbit", "status", "--db", "/nowhere/x.db"]
    run = subprocess.run(command, text=True, capture_output=True, timeout=120)
    assert run.returncode == 2
    assert run.stderr == "error: /nowhere/x.db: no such database; run a sweep first or give --db\n"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    study = folder / "study.yaml"
    study.write_text(STUDY)
    run = kbit("sweep", study, "--db", folder / "t.db", "--executor", "local")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all 4 experiments are stored" in run.stdout
    return folder / "t.db"


def test_results_in_every_format(database):
    table = kbit("results", "--db", database, "--bits", 4, "--metric", "cross_entropy")
    assert len(table.stdout.strip().splitlines()) == 3  # header and two models
    text = kbit("results", "--db", database, "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    factors = RESULT_COLUMNS.index(SETTING_COLUMNS[-1]) + 1
    columns = (*RESULT_COLUMNS[:factors], "recipe", *RESULT_COLUMNS[factors:])
    assert tuple(rows[0]) == columns
    as_json = json.loads(kbit("results", "--db", database, "--format", "json").stdout)
    assert len(as_json) == len(rows)
    assert tuple(as_json[0]) == columns


def test_percent_degradation_of_every_task(database):
    rows = json.loads(kbit("optimal", "--degradation", "--db", database, "--format", "json").stdout)
    assert len(rows) == 2 * 5 and {row["setting"] for row in rows} == {"4-bit float E2 B64"}
    mean = [row["percent"] for row in rows if row["task"] != "mean"][:4]
    assert rows[4]["task"] == "mean" and rows[4]["percent"] == pytest.approx(sum(mean) / 4)
    said = kbit("optimal", "--degradation", "--db", database)
    assert said.returncode == 0 and "mean over tasks" in said.stdout
    refused = kbit("optimal", "--formats", "--db", database)
    assert refused.returncode == 2 and "no family has formats" in refused.stderr


@pytest.mark.parametrize("command", ["status", "results", "optimal"])
def test_a_command_names_the_database_it_reads(database, command):
    run = kbit(command, "--db", database)
    assert run.returncode == 0 and f"database: sqlite:///{database}\n" in run.stderr


def test_status_counts_experiments(database):
    rows = json.loads(kbit("status", "--db", database, "--format", "json").stdout)
    assert sum(row["done"] for row in rows) == 4
    assert sum(row["failed"] for row in rows) == 0


def test_optimal_answers_inside_the_overlap_and_says_undetermined_outside(database):
    options = ["--db", database, "--metric", "cross_entropy", "--format", "json"]
    rows = json.loads(kbit("results", "--db", database, "--format", "json").stdout)
    sizes = {(r["model"], r["bits"]): r["total_bits"] for r in rows}
    inside = sizes["sotu-neox-64x2", 4] * 0.9
    [answer] = json.loads(kbit("optimal", *options, "--budget", int(inside)).stdout)
    assert answer["determined"] and answer["n_compared"] == 2
    said = kbit("optimal", *options[:-2], "--budget", int(inside)).stdout
    assert "Probability of being optimal" in said and "\nprobability: it is shrunk" in said
    [outside] = json.loads(kbit("optimal", *options, "--budget", "1KiB").stdout)
    assert not outside["determined"]
    said = kbit("optimal", "--db", database, "--budget", "1KiB")
    assert "undetermined" in said.stdout
    assert kbit("optimal", "--db", database).returncode == 0


def test_what_no_task_was_scored_on_is_answered_by_loss(database, tmp_path):
    rows, alone = tmp_path / "rows.csv", tmp_path / "alone.db"
    losses = kbit("results", "--db", database, "--metric", "cross_entropy", "--format", "csv")
    rows.write_text(losses.stdout)
    assert kbit("import", rows, "--source", "corpora", "--db", alone).returncode == 0
    for question in ((), ("--budget", "500KiB"), ("--reach", "4.5"), ("--task", "sotu")):
        run = kbit("optimal", "--db", alone, *question)
        assert run.returncode == 0 and "metric: cross_entropy" in run.stdout, run.stderr
    # Of a task and a corpus, what is asked for decides.
    assert "metric: zero_shot" in kbit("optimal", "--db", database).stdout
    on_corpus = kbit("optimal", "--db", database, "--task", "sotu", "--family", "sotu-neox")
    assert "by mean zero-shot accuracy" in on_corpus.stdout  # the set of that name comes first
    asked = kbit("optimal", "--db", alone, "--metric", "zero_shot")
    assert asked.returncode == 2 and "no zero_shot results yet" in asked.stderr


def test_report_is_one_offline_file(database, tmp_path):
    run = kbit("report", "--db", database, "--output", tmp_path / "r.html")
    assert run.returncode == 0, run.stderr
    assert f"database: sqlite:///{database}\n" in run.stderr
    page = (tmp_path / "r.html").read_text()
    assert "sotu-neox" in page
    assert 'src="http' not in page and "<link" not in page


def test_a_report_never_overwrites_a_database(database, tmp_path):
    page = tmp_path / "t.html"  # as a database, its report would have the same name
    shutil.copyfile(database, page)
    for options in (["--db", database, "--output", database], ["--db", page]):
        run = kbit("report", *options)
        assert run.returncode == 2 and "is a database, not to be overwritten" in run.stderr
    assert kbit("status", "--db", database).returncode == 0
    assert page.read_bytes() == database.read_bytes()


def test_a_value_that_no_row_has_is_said(database):
    for option, value in (("--task", "sotuu"), ("--bits", 5), ("--family", "sotu-nex")):
        run = kbit("results", "--db", database, option, value)
        assert run.returncode == 2 and len(run.stderr.splitlines()) == 1
        assert f"{value}; there are " in run.stderr and str(database) in run.stderr
    two = kbit("results", "--db", database, "--task", "sotu_blank", "--metric", "cross_entropy")
    assert two.returncode == 0  # each is there


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    run = kbit(command, "--help")
    assert run.returncode == 0
    assert f"kbit {command}" in run.stdout.split("example:")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimal", "--budget", "3 apples"], "3 apples"),
        (["optimal", "--budget", "1MiB", "--family", "sotu-nex"], "sotu-nex"),
        (["results", "--db", "/nowhere/x.db"], "no such database"),
        (["optimal", "--memory", "0", "--db", "/nowhere/x.db"], "at least one bit"),
        (["sweep", "/nowhere/x.yaml"], "no such file"),
        (["sweep", str(ROOT / "LICENSE")], "not valid YAML"),
        (["train", "sotu-neox-1x1", "--output", "/tmp/never"], "no usable recipe"),
        (["optimal", "--metric", "luck"], "invalid choice"),
        (["frobnicate"], "invalid choice"),
    ],
)
def test_mistakes_end_with_one_line_and_exit_code_2(database, arguments, message):
    if arguments[0] == "optimal":
        arguments = [*arguments, "--db", database]
    run = kbit(*arguments)
    assert run.returncode == 2
    assert message in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
