"""The benchmarks that need a GPU run, on a CPU, as far as one can tell there."""

import datetime
import json
import sys

import pytest
import torch

from benchmarks import gpu, integers, kernels, serving
from quantizers.kernels import measured, tuning


def test_every_format_of_a_model_is_served(tmp_path, capsys):
    file = tmp_path / "serving.json"
    arguments = ["--model", "tiny", "--shapes", "1x5x3", "--steps", "1"]
    assert serving.main([*arguments, "--json", str(file)]) == 0
    records = json.loads(file.read_text())
    latency = {r["case"]: r for r in records if r["metric"] == "latency"}
    formats = ("16 bit", "8 bit", "4 bit", "3 bit", "w8a8", "w4a8", "llm-int8")
    assert list(latency) == [f"tiny {name} 1x5x3" for name in formats]
    assert all(r["ratio"] > 0 and r["peer"] == "16 bit" for r in latency.values())
    assert all(r["ratio"] == 1 for case, r in latency.items() if "16 bit" in case)
    stages = {(r["case"], r["metric"]): r["ratio"] for r in records if "efficient" in r["metric"]}
    assert list(stages) == [
        (f"tiny {method} 1x5x3", f"efficient {stage}")
        for method, *_ in serving.STAGES.values()
        for stage in ("context decoding", "self-decoding")
    ]
    assert all(ratio > 0 for ratio in stages.values())


def test_what_a_device_is_fastest_with_is_kept_by_its_name(tmp_path, monkeypatch):
    file = tmp_path / "measured.json"
    file.write_text("{}")
    monkeypatch.setattr(measured, "FILE", file)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    device = torch.device("cuda", 0)
    measured._of_name.cache_clear()
    guesses = tuning.LIBRARY_TOKENS, tuning.MULTIPLY_ROWS
    assert (measured.library_tokens(device), measured.multiply_rows(device)) == guesses
    measured.keep("Some GPU", "2026-01-02", {measured.LIBRARY_TOKENS: 96})
    measured.keep("Some GPU", "2026-01-03", {measured.MULTIPLY_ROWS: 32})
    measured.keep("Other", "2026-01-03", {measured.LIBRARY_TOKENS: 1})
    assert (measured.library_tokens(device), measured.multiply_rows(device)) == (96, 32)
    assert measured.library_tokens(torch.device("cpu")) == guesses[0]
    measured._of_name.cache_clear()


def test_the_committed_measurements_name_devices_dates_and_whole_numbers():
    for name, values in json.loads(measured.FILE.read_text()).items():
        assert name and datetime.date.fromisoformat(values.pop("date"))
        assert set(values) <= {measured.LIBRARY_TOKENS, measured.MULTIPLY_ROWS}
        assert all(isinstance(value, int) and value >= 1 for value in values.values())


def test_crossovers_are_read_off_the_tables(capsys):
    report = kernels.Report("a device")
    for tokens in integers.GPU_TOKENS:
        for side in integers.GPU_SIDES:
            case = f"W8A8 row M={tokens} {side}x{side}"
            report.add_time(f"{case}, kernel", 1.0 + tokens / 100, "cuBLAS fp16", 1.0)
            if tokens > 16:
                slower = 2.0 if side == 4096 else 3.0
                report.add_time(f"{case}, cuBLASLt", slower, "cuBLAS fp16", 1.0)
    assert integers.crossover(report) == 256  # at 128 the larger side's kernel is still faster
    assert kernels.faster_rows(report) is None
    for bits, ours in ((4, 1.0), (8, 3.0)):
        report.add_time(f"fused k={bits} M=32, {kernels.AT_ONCE}", ours, "16 rows at a time", 2.0)
    assert kernels.faster_rows(report) == 32


def test_what_decides_is_kept_before_a_table_that_may_be_cut_short(tmp_path, monkeypatch, capsys):
    kept = {}
    monkeypatch.setattr(measured, "keep", lambda name, date, values: kept.update(values))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *device: "Some GPU")

    def cut_short(*given):
        raise TimeoutError

    def at_once(report, copy):
        report.add_time(f"fused k=4 M=32, {kernels.AT_ONCE}", 1.0, "16 rows at a time", 2.0)

    def apart(report):
        for tokens in integers.GPU_TOKENS:
            for side in integers.GPU_SIDES:
                for what, taken in (("kernel", tokens), ("cuBLASLt", 100)):
                    case = f"{integers.BY_BOTH} M={tokens} {side}x{side}, {what}"
                    report.add_time(case, taken, "cuBLAS fp16", 1.0)

    for name in ("warm_up", "copy_bandwidth", "clock_rate"):
        monkeypatch.setattr(kernels, name, lambda: 1.0)
    monkeypatch.setattr(kernels, "multiply_table", at_once)
    monkeypatch.setattr(kernels, "dequantize_table", cut_short)
    monkeypatch.setattr(integers, "crossover_table", apart)
    monkeypatch.setattr(integers, "gpu_table", cut_short)
    for script in (kernels, integers):
        with pytest.raises(TimeoutError):
            script.main(["--json", str(tmp_path / "records.json")])
    assert kept == {measured.MULTIPLY_ROWS: 32, measured.LIBRARY_TOKENS: 128}
    measured._of_name.cache_clear()


def test_a_session_on_a_gpu_says_how_each_step_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--into", str(tmp_path)]) == 2 and not list(tmp_path.iterdir())
    planned = gpu.steps(tmp_path, "h100")
    assert abs(sum(step.share for step in planned) - 1) < 1e-9
    scripts = [part for step in planned for part in step.command if part.startswith("benchmarks/")]
    assert len(scripts) == 3 and all((gpu.ROOT / script).is_file() for script in scripts)
    program = [sys.executable, "-c"]
    steps = [
        gpu.Step("good", [*program, "print('fine')"], 0.2),
        gpu.Step("bad", [*program, "raise SystemExit('why')"], 0.2),
        gpu.Step("slow", [*program, "import time; print(1, flush=True); time.sleep(60)"], 0.0),
        gpu.Step("none", ["no-such-program"], 0.2),
    ]
    ended = [gpu.run(step, 2.0 if step.name == "slow" else 60.0) for step in steps]
    assert [record["ended"] for record in ended] == ["ok", "failed", "late", "missing"]
    assert ended[1]["last_lines"] == ["why"]


def test_wheels_are_installed_first_and_a_folder_without_is_said(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, check: ran.append(command))
    with pytest.raises(FileNotFoundError, match="holds no wheel"):
        gpu.install(tmp_path)
    (tmp_path / "peer-1-py3-none-any.whl").touch()
    gpu.install(tmp_path)
    assert ran[0][-1].endswith("peer-1-py3-none-any.whl") and "--no-index" in ran[0]


def test_programs_are_found_in_wheels_too(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.sysconfig, "get_path", lambda name: str(tmp_path))
    tool = tmp_path / "nvidia" / "cu13" / "bin" / "compute-sanitizer-of-a-wheel"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\necho found\n")
    step = gpu.Step("memcheck", [tool.name, "--tool", "memcheck"], 0.1)
    assert gpu.run(step, 60.0)["ended"] == "missing"  # no program: not executable
    tool.chmod(0o755)
    assert gpu.run(step, 60.0)["last_lines"] == ["found"]


def test_mistakes_in_a_session_are_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--only", "kernel"])
    assert "invalid choice: 'kernel'" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu.main(["--into", str(tmp_path / "new"), "--wheels", str(tmp_path / "none")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "none: holds no wheel" in line


def test_a_report_of_a_gpu_is_written_as_it_grows(tmp_path, capsys):
    report = kernels.Report("a device", tmp_path / "records.json")
    for count in (1, 2):
        report.add_time("a case", 1.0, "a peer", 2.0)
        assert len(json.loads((tmp_path / "records.json").read_text())) == count
