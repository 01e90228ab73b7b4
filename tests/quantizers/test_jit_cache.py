"""Numba's files on disk save time and nothing else."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from quantizers.kernels.jit import compiled

SOURCE = "def double(x, out):\n    for i in range(len(x)):\n        out[i] = 2 * x[i]\n"
SIGNATURE = "void(f4[::1], f4[::1])"


def function_in(folder: Path):
    """The same function, as another process would import it."""
    path = folder / "loops_of_a_test.py"
    if not path.exists():
        path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("loops_of_a_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.double


def check(function) -> None:
    out = np.zeros(3, np.float32)
    compiled(function, SIGNATURE)(np.arange(3, dtype=np.float32), out)
    assert out.tolist() == [0, 2, 4]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", [b"", b"\x80garbage", None])
def test_a_damaged_file_is_replaced(tmp_path, suffix, damage):
    check(function_in(tmp_path))
    [file] = (tmp_path / "__pycache__").glob(f"*{suffix}")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    check(function_in(tmp_path))
    healed = file.read_bytes()
    check(function_in(tmp_path))
    assert file.read_bytes() == healed and len(healed) >= len(whole) // 2 + 1  # found whole


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, caplog):
    from numba.core.caching import IndexDataCacheFile

    def full(self, key, data=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    monkeypatch.setattr(IndexDataCacheFile, "flush", lambda self: full(self, None))
    check(function_in(tmp_path))
    assert "nothing can be kept: OSError(28, 'No space left on device')" in caplog.text
    assert len(caplog.records) == 1
