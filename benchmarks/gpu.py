"""Everything that needs a GPU, in one go of about ten minutes: tests, tables, compute-sanitizer.

    python benchmarks/gpu.py [--into benchmarks/results] [--minutes 10] [--only STEP ...]
                             [--wheels FOLDER]

Steps run one after another, the most telling first; each has its share of the time, and what is
left goes on to the next. Each benchmark writes its JSON as it goes, so that one which has no more
time leaves what it measured; what decides between kernels goes to quantizers/kernels/measured.json
and is used from then on. The session itself writes gpu-DEVICE.json: the device, the date, and of
each step how it ended. compute-sanitizer takes `kbit doctor`, which runs one instance of each
kernel family on this device; where it is not installed, that is said.

Peers are measured where they are installed. Where nothing can be downloaded, bring them along:
`pip download --no-deps -d FOLDER humming-kernels bitsandbytes nvidia-cuda-sanitizer-api` elsewhere,
then --wheels FOLDER (make gpu WHEELS=FOLDER), which installs what lies there beside Python's
packages. (humming-kernels also needs NVCC or NVRTC.)
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable, "-m"]
DOCTOR = [*PYTHON, "kbit.cli", "doctor"]


@dataclass(frozen=True)
class Step:
    """A command from the repository's root; `share` of all the time is what it may take."""

    name: str
    command: list[str]
    share: float
    file: Path | None = None  # what it writes


def steps(into: Path, device: str) -> list[Step]:
    """In order of what they tell."""
    tests = [*PYTHON, "pytest", "-q", "-m", "gpu", "-k", "not benchmark and not huge", "tests"]
    found = [Step("doctor", DOCTOR, 0.05), Step("tests", tests, 0.3)]
    for name, share in (("integers", 0.1), ("serving", 0.2), ("kernels", 0.2)):
        file = into / f"{name}-{device}.json"
        command = [sys.executable, f"benchmarks/{name}.py", "--json", str(file)]
        found.append(Step(name, command, share, file))
    for tool in ("memcheck", "racecheck"):
        sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *DOCTOR]
        found.append(Step(tool, sanitizer, 0.075))
    return found


def install(wheels: Path) -> None:
    """Without a network and without what they depend on. Raises OSError where none lie there."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise FileNotFoundError(f"{wheels}: holds no wheel")
    subprocess.run([*PYTHON, "pip", "install", "--no-deps", "--no-index", *files], check=True)


def program(name: str) -> str | None:
    """Where a program is: on the path, or in one of NVIDIA's wheels beside Python's packages."""
    if found := shutil.which(name):
        return found
    files = sorted(Path(sysconfig.get_path("purelib"), "nvidia").rglob(name))
    return next((str(f) for f in files if f.is_file() and os.access(f, os.X_OK)), None)


def run(step: Step, limit: float) -> dict[str, Any]:
    """How a step ended: ok, failed, late (it had no more time) or missing (its program is)."""
    record: dict[str, Any] = {"step": step.name, "command": " ".join(step.command)}
    if (found := program(step.command[0])) is None:
        return record | {"ended": "missing", "seconds": 0.0}
    command, started = [found, *step.command[1:]], time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=limit, capture_output=True, text=True)
        ended, said = "ok" if done.returncode == 0 else "failed", done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        ended, said = "late", _text(late.stdout) + _text(late.stderr)
    record |= {"ended": ended, "seconds": round(time.perf_counter() - started, 1)}
    return record | {"last_lines": said.strip().splitlines()[-15:]}


def _text(said: bytes | str | None) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said or ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--minutes", type=float, default=10.0)
    names = [step.name for step in steps(ROOT, "any")]
    parser.add_argument("--only", nargs="+", choices=names, help="these steps alone")
    parser.add_argument("--wheels", type=Path, help="a folder of peers' wheels to install first")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("no GPU here: nothing is run, and no table is filled", file=sys.stderr)
        return 2
    try:
        args.into.mkdir(parents=True, exist_ok=True)
        if args.wheels:
            install(args.wheels)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"nothing is run: {error}", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name(0)
    device = re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")
    chosen = [s for s in steps(args.into, device) if not args.only or s.name in args.only]
    whole, started, records = 60 * args.minutes, time.perf_counter(), []
    for i, step in enumerate(chosen):
        left = whole - (time.perf_counter() - started)
        later = sum(other.share for other in chosen[i:])
        records.append(run(step, max(20.0, left * step.share / later)))
        print(
            f"{step.name:10} {records[-1]['ended']:8} {records[-1]['seconds']:7.1f} s", flush=True
        )
        session = {"device": name, "date": str(datetime.date.today()), "torch": torch.__version__}
        session_file = args.into / f"gpu-{device}.json"
        session_file.write_text(json.dumps(session | {"steps": records}, indent=1) + "\n")
    return 0 if all(record["ended"] in ("ok", "missing") for record in records) else 1


if __name__ == "__main__":
    raise SystemExit(main())
