"""The benchmarks that need a GPU run, on a CPU, as far as one can tell there."""

import json
import sys

import torch

from benchmarks import gpu, serving


def test_every_format_of_a_model_is_served(tmp_path, capsys):
    file = tmp_path / "serving.json"
    arguments = ["--model", "tiny", "--shapes", "2x5x3", "--steps", "1"]
    assert serving.main([*arguments, "--json", str(file)]) == 0
    records = json.loads(file.read_text())
    latency = {r["case"]: r for r in records if r["metric"] == "latency"}
    formats = ("16 bit", "8 bit", "4 bit", "3 bit", "w8a8", "w4a8", "llm-int8")
    assert list(latency) == [f"tiny {name} 2x5x3" for name in formats]
    assert all(r["ratio"] > 0 and r["peer"] == "16 bit" for r in latency.values())
    assert all(r["ratio"] == 1 for case, r in latency.items() if "16 bit" in case)


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
