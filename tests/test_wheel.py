"""What a built wheel holds is enough to work in an empty folder, away from the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.paths import find_sweep
from orchestrator.study.models import load_models

ROOT = Path(__file__).resolve().parent.parent
BUILD = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
STUDY = """
models: sotu-neox-32x2
grids: [{bits: [16, 4]}]
tasks: [sotu_blank]
limit: 4
corpora: {name: sotu, max_tokens: 1000}
compute: {device: cpu}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked as pip does it; other packages are the environment's."""
    pytest.importorskip("setuptools", minversion="77")  # what pyproject.toml asks for
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in (
        "analysis", "evaluation", "kbit", "orchestrator", "quantizers", "training", "models",
        "sweeps",
    ):  # fmt: skip
        ignored = shutil.ignore_patterns("__pycache__", "shipped")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in (
        "LICENSE",
        "MANIFEST.in",
        "README.md",
        "models.yaml",
        "pyproject.toml",
        "setup.py",
    ):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-c", BUILD]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=300)
    (wheel,) = (source / "dist").glob("kbit_scaling-*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
    return site


def test_a_sweep_runs_from_the_wheel_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    """On embedded tasks, which no checkout has built before."""
    (tmp_path / "study.yaml").write_text(STUDY)
    environment = {k: v for k, v in os.environ.items() if k != "KBIT_RESULTS"}
    environment |= {"PYTHONPATH": str(site), "KBIT_CACHE": str(tmp_path / "cache")}

    def kbit(*arguments: str) -> str:
        command = [sys.executable, "-m", "kbit.cli", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, timeout=300,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "all 2 experiments are stored" in kbit("sweep", "study.yaml", "--executor", "local")
    assert (tmp_path / "results" / "study.db").is_file()
    assert list((tmp_path / "cache").rglob("sotu_blank*"))


def test_the_wheel_ships_every_model_and_sweep(site: Path) -> None:
    shipped = load_models(site / "kbit" / "shipped" / "models.yaml")
    for family, entries in load_models().items():
        for entry, there in zip(entries, shipped[family], strict=True):
            if entry.path and Path(entry.path).is_relative_to(ROOT):
                copies = [Path(path) for path in (there.path, there.tokenizer) if path]
                assert all(copy.is_relative_to(site) and any(copy.iterdir()) for copy in copies)
    ours, theirs = (
        {f.name for f in (p / "sweeps").iterdir()} for p in (ROOT, site / "kbit/shipped")
    )
    assert ours == theirs


def test_shipped_sweeps_go_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo.yaml", "sweeps/demo.yaml"):
        assert find_sweep(Path(name)) == ROOT / "sweeps" / "demo.yaml"
    Path("demo.yaml").write_text("mine")
    for name in ("demo.yaml", "none.yaml", "elsewhere/demo", str(tmp_path / "sweeps/demo.yaml")):
        assert find_sweep(Path(name)) == Path(name)
    with pytest.raises(InputError, match="none: no such file, and no shipped sweep; .*demo"):
        find_sweep(Path("none"))
