"""What the orchestration may cost, with an evaluator that returns at once."""

import json
import subprocess
import sys

import pytest

from orchestrator.paths import ROOT
from tests.orchestrator import processes


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [2_000, 35_000])
def test_overhead_memory_and_file_size(jobs, tmp_path):
    with processes.ray_folder() as folder:
        command = [sys.executable, ROOT / "benchmarks" / "orchestration.py"]
        output = tmp_path / "records.json"
        subprocess.run(
            [*command, "--jobs", str(jobs), "--json", output],
            check=True, env={**processes.ENVIRONMENT, "RAY_TMPDIR": folder}, timeout=300,
        )  # fmt: skip
    values = {record["metric"]: record["value"] for record in json.loads(output.read_text())}
    assert values["experiments"] >= 400
    assert values["driver memory, maximum"] < 1000
    growth = values["driver memory, maximum"] - values["driver memory, first tenth"]
    assert growth < 100
    assert values["file, 10 measurements each"] < 100 * jobs / 35_000 + 1
    assert values["grid, ids and what is missing"] < 3
