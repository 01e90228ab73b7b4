"""Small real studies: an embedded model, few items, a database in a temporary folder."""

from pathlib import Path

import pytest

from tests.orchestrator import processes

STUDY = """
models: [sotu-neox-32x2]
grids:
  - {bits: [16, 4, 3], data_type: float, block_size: 64}
tasks: [sotu_blank]
limit: 20
corpora:
  - {name: sotu, max_tokens: 1000}
"""


# The baseline alone: 16 bit has none of the other factors.
TO_16_BIT = ("[16, 4, 3], data_type: float, block_size: 64", "16")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def folder():
    """Ray's own, for clusters that nobody else shall find."""
    with processes.ray_folder() as path:
        yield path
