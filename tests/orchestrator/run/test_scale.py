"""What the orchestration may cost, with an evaluator that returns at once."""

import json
import subprocess
import sys

import pytest

from orchestrator.paths import ROOT
from tests.orchestrator import processes


@pytest.mark.parametrize("jobs", [1_000, pytest.param(35_000, marks=pytest.mark.slow)])
def test_overhead_memory_and_file_size(jobs, tmp_path):
    with processes.ray_folder() as folder:
        command = [sys.executable, ROOT / "benchmarks" / "orchestration.py"]
        output = tmp_path / "records.json"
        subprocess.run(
            [*command, "--jobs", str(jobs), "--json", output],
            check=True, env={**processes.ENVIRONMENT, "RAY_TMPDIR": folder}, timeout=300,
        )  # fmt: skip
    records = {record["metric"]: record for record in json.loads(output.read_text())}
    values = {metric: record["value"] for metric, record in records.items()}
    assert records["experiments"]["ratio"] > 0.1  # of bare actor calls a second, beside: some 0.4
    assert values["driver memory, maximum"] < 1000
    growth = values["driver memory, maximum"] - values["driver memory, first tenth"]
    assert growth < 100
    assert values["file, 10 measurements each"] < 100 * jobs / 35_000 + 1


SMALL_GRID = """
models: [sotu-neox-32x2, sotu-neox-64x2, sotu-neox-128x2]
strategy: adaptive
grids:
  - {bits: [16, 6, 5, 4, 3, 2], data_type: [float, int], block_size: 64, scope: [linear, all]}
tasks: sotu
limit: 50
corpora:
  - {name: sotu, max_tokens: 16000}
"""


@pytest.mark.slow
def test_adaptive_scores_less_for_the_same_answer(tmp_path):
    study, output = tmp_path / "study.yaml", tmp_path / "records.json"
    study.write_text(SMALL_GRID)
    with processes.ray_folder() as folder:
        command = [sys.executable, ROOT / "benchmarks" / "adaptive.py", study]
        subprocess.run(
            [*command, "--db", tmp_path / "t.db", "--json", output],
            check=True, env={**processes.ENVIRONMENT, "RAY_TMPDIR": folder}, timeout=500,
        )  # fmt: skip
    records = {record["metric"]: record for record in json.loads(output.read_text())}
    scored = records["cross_entropy: experiments scored in full"]
    assert scored["value"] < 0.7 * scored["peer_value"]  # few models, a quarter of it as a sample
    same = records["cross_entropy: same answer, of 200 budgets"]
    assert same["value"] >= 0.95 * same["peer_value"] > 10
