"""What can be known about the CUDA kernels without a GPU: they compile well, and their disk cache
survives damage and company."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from quantizers.kernels import build, tuning
from quantizers.kernels.build import Instance

pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC's Python binding")
try:
    build.nvrtc_version()
except build.BuildError as error:
    pytest.skip(str(error), allow_module_level=True)

ROOT = Path(__file__).parents[2]
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
INSTANCE = Instance("dequantize", (4, torch.float16, True))

INSTANCES = {
    "logprob": [Instance("logprob", (dtype,)) for dtype in DTYPES],
    "dequantize": [
        Instance("dequantize", (bits, dtype, fast))
        for bits in range(2, 16)
        for dtype in DTYPES
        for fast in ((True, False) if bits <= 8 else (False,))
    ],
    "quantize": [
        Instance("quantize", (bits, dtype, one_pass))
        for bits in range(2, 16)
        for dtype in DTYPES
        for one_pass in ((True, False) if bits <= 8 else (False,))
    ],
    "gemv": [Instance("gemv", (bits, dtype)) for bits in range(2, 9) for dtype in DTYPES[:2]],
    "multiply": [
        Instance("multiply", (bits, dtype, tiles, tuning.multiply_chunks(bits), fine))
        for bits in range(2, 9)
        for dtype in DTYPES[:2]
        for tiles in (1, 2)
        for fine in (False, True)
    ]
    + [
        Instance("multiply", (bits, DTYPES[0], 4, tuning.multiply_chunks(bits), False))
        for bits in (2, 3, 4, 8)
    ],
    "round_rows": [
        Instance("round_rows", (dtype, vectors))
        for dtype in DTYPES
        for vectors in tuning.ROUND_VECTORS
    ],
    "integer_product": [
        Instance("integer_product", (bits, scales, *tile))
        for bits in (4, 8)
        for scales in (0, 1, 2)
        for tile in tuning.INTEGER_TILES
    ],
    "scale_sums": [Instance("scale_sums", (dtype,)) for dtype in DTYPES],
}


def instances_for(family, arch):
    """A part for each architecture, together all: compiling is most of what this file takes, and
    an instance differs little by architecture. The slow test has every pair."""
    instances = INSTANCES[family]
    return instances[ARCHITECTURES.index(arch) :: len(ARCHITECTURES)] or instances[:1]


@pytest.fixture(scope="module")
def reports():
    """(family, arch) -> what ptxas says about its instances."""
    jobs = [(family, arch) for arch in ARCHITECTURES for family in INSTANCES]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = pool.map(lambda job: build.compile_instances(instances_for(*job), job[1]), jobs)
        return dict(zip(jobs, done, strict=True))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", INSTANCES)
def test_an_instance_compiles_without_local_memory(reports, family, arch):
    check_report(*reports[family, arch], instances_for(family, arch))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", INSTANCES)
def test_every_instance_compiles_for_every_architecture(family, arch):
    check_report(*build.compile_instances(INSTANCES[family], arch), INSTANCES[family])


def check_report(binaries, log, instances):
    assert set(binaries) == set(instances)
    assert len({binary.symbol for binary in binaries.values()}) == len(binaries)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", log)
    assert len(frames) >= len(binaries)
    assert {frame for frame in frames} == {("0", "0", "0")}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("family", INSTANCES)
def test_threads_fit_a_multiprocessor(reports, family, arch):
    """65,536 registers for at least the two blocks that hide each other's barriers; the products,
    which take shared memory or registers for more work at a time, and rows held in registers have
    one."""
    name = {"round_rows": "ROUND", "integer_product": "INTEGER", "scale_sums": "SCALE"}.get(family)
    most = tuning.macros(arch)[f"{name or family.upper()}_THREADS"]
    blocks = 1 if family in ("gemv", "multiply", "integer_product", "round_rows") else 2
    _, log = reports[family, arch]
    used = re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", log, re.DOTALL)
    assert len(used) == len(instances_for(family, arch))
    for symbol, registers in used:
        threads = most
        if family == "multiply":  # more tiles of x at once: half the threads, twice the registers
            tiles = re.search(r"multiplyILi\d+E.*?Li(\d+)E", symbol)[1]
            threads = tuning.multiply_threads(int(tiles))
        assert 0 < blocks * threads * int(registers) <= 65536, symbol


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
    program = (
        "import hashlib, torch\n"
        "from quantizers.kernels.build import Instance, build\n"
        "instance = Instance('multiply', (3, torch.float16, 1, 2, False))\n"
        "binary = build(instance, 'sm_90')\n"
        "print(hashlib.sha256(binary.code).hexdigest())\n"
    )
    environment = {**os.environ, "KBIT_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    digests = {worker.communicate(timeout=120)[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0] * 4
    assert len(digests) == 1
    assert len(list((tmp_path / "kernels").iterdir())) == 1  # and no temporary file
