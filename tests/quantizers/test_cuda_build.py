"""The CUDA kernels' disk cache survives damage and company; needs no GPU."""

import os

import pytest
import torch

from quantizers.kernels import build, tuning
from quantizers.kernels.build import Instance
from tests.quantizers.processes import run_together

pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC's Python binding")
try:
    build.nvrtc_version()
except build.BuildError as error:
    pytest.skip(str(error), allow_module_level=True)

INSTANCE = Instance("dequantize", (4, torch.float16, True))


def test_names_are_those_of_the_source():
    assert INSTANCE.name == "dequantize<4, F16, true>"
    multiply = Instance("multiply", (3, torch.bfloat16, 1, 2, False))
    assert multiply.name == "multiply<3, BF16, 1, 2, false>"


def test_the_disk_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path))
    first = build.build(INSTANCE, "sm_90")
    monkeypatch.setattr(build, "compile_instances", None)  # not called again
    assert build.build(INSTANCE, "sm_90") == first
    assert first.code[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-100] + b"x" + data[-99:],
        lambda data: b"[]\n" + data,
        lambda data: data.replace(b"symbol", b"sXmbol"),
        lambda data: b"\xff" * 100,
    ],
    ids=["empty", "short", "half", "changed", "other", "key", "noise"],
)
def test_a_damaged_entry_is_rebuilt(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path))
    first = build.build(INSTANCE, "sm_90")
    [entry] = (tmp_path / "kernels").iterdir()
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    assert build.build(INSTANCE, "sm_90") == first
    assert entry.read_bytes() == good


def test_the_key_has_everything_that_matters(tmp_path, monkeypatch):
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path))
    key = build._key(INSTANCE, "sm_90")
    assert build._key(INSTANCE, "sm_80") != key
    assert build._key(Instance("dequantize", (5, torch.half, True)), "sm_90") != key
    with monkeypatch.context() as patch:
        patch.setattr(build, "nvrtc_version", lambda: "99.9")
        assert build._key(INSTANCE, "sm_90") != key
    with monkeypatch.context() as patch:
        patch.setitem(tuning._MACROS, "DEQUANTIZE_THREADS", 128)
        assert build._key(INSTANCE, "sm_90") != key
    changed = build.source("dequantize") + " "
    monkeypatch.setattr(build, "source", lambda family: changed)
    assert build._key(INSTANCE, "sm_90") != key


def test_a_folder_that_cannot_be_written_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path / "file"))
    assert build.build(INSTANCE, "sm_90").code[:4] == b"\x7fELF"


def test_bad_source_is_one_line(monkeypatch):
    monkeypatch.setattr(build, "source", lambda family: "this is not C++;")
    with pytest.raises(build.BuildError, match="dequantize does not compile for sm_90") as caught:
        build.compile_instances([INSTANCE], "sm_90")
    assert "\n" not in str(caught.value)


def test_processes_that_start_together_build_one_whole_entry(tmp_path):
    printed = run_together(
        4,
        "import hashlib, torch\nfrom quantizers.kernels.build import Instance, build",
        [
            "instance = Instance('multiply', (3, torch.float16, 1, 2, False))",
            "print(hashlib.sha256(build(instance, 'sm_90').code).hexdigest())",
        ],
        {**os.environ, "KBIT_CACHE": str(tmp_path)},
    )
    assert len(printed.split()) == 4 and len(set(printed.split())) == 1
    assert len(list((tmp_path / "kernels").iterdir())) == 1  # and no temporary file
