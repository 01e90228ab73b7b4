"""`kbit doctor` and `kbit bench latency` on a machine as it comes."""

import json

import pytest
import torch

from evaluation.speed.roofline import bytes_a_step
from kbit import bench
from kbit.cli import main
from kbit.doctor import PROBLEM
from orchestrator.study.models import load_models
from quantizers.kernels import build, cpu, cpu_integers, cpu_vector, reference
from quantizers.linear import KBitLinear
from quantizers.setting import Setting


def doctor(capsys):
    code = main(["doctor", "--format", "json"])
    findings = json.loads(capsys.readouterr().out)
    return code, {row["what"]: row for row in findings}


def test_doctor_says_what_runs_here(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path))
    code, found = doctor(capsys)
    assert code == 0
    assert found["torch"]["found"] == torch.__version__
    assert "agree with plain torch" in found["CPU path"]["found"]
    integers = found["int8 on the CPU"]
    assert integers["state"] == "ok" and "exact" in integers["found"]
    assert str(tmp_path) in found["cache"]["found"]
    assert {f"kernel {family}" for family in build.FAMILIES} <= set(found)
    if not torch.cuda.is_available():
        assert all("no CUDA device" in found[f"kernel {f}"]["found"] for f in build.FAMILIES)


def test_doctor_says_why_integers_are_multiplied_as_floats(capsys, monkeypatch):
    monkeypatch.setattr(cpu_integers, "unsupported", lambda: "sums are not exact here")
    code, found = doctor(capsys)
    integers = found["int8 on the CPU"]
    assert code == 0 and integers["state"] == PROBLEM and "not exact" in integers["found"]


def test_doctor_says_why_nvrtc_and_the_cache_are_not_usable(capsys, tmp_path, monkeypatch):
    def missing():
        raise build.BuildError("NVRTC is not usable: no such library")

    monkeypatch.setattr(build, "nvrtc_version", missing)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KBIT_CACHE", str(tmp_path / "file"))
    code, found = doctor(capsys)
    assert code == 0  # the CPU path works
    assert found["NVRTC"]["state"] == PROBLEM
    assert "no such library" in found["NVRTC"]["found"]
    assert found["cache"]["state"] == PROBLEM


def test_doctor_says_how_this_processor_decodes(capsys, monkeypatch):
    monkeypatch.setattr(cpu_vector, "runs_here", lambda: False)
    _, found = doctor(capsys)
    assert "decodes by look-ups: it has no AVX-512 VBMI" in found["CPU path"]["found"]


def wrong_words(values, q):
    reference.quantize(values, q)
    q.words[0] ^= 1


@pytest.mark.parametrize(
    ("kernel", "wrong"),
    [("quantize", wrong_words), ("dequantize", lambda q: reference.dequantize(q) + 1)],
)
def test_doctor_fails_when_the_cpu_path_is_wrong(capsys, monkeypatch, kernel, wrong):
    monkeypatch.setattr(cpu, kernel, wrong)
    code, found = doctor(capsys)
    assert code == 1
    assert "disagree" in found["CPU path"]["found"]


def test_latency_by_precision_with_its_roofline(capsys):
    arguments = ["--bits", "16", "4", "--batch", "1", "3", "--steps", "2", "--format", "json"]
    assert main(["bench", "latency", "sotu-neox-32x2", *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["bits"], row["batch"]) for row in rows] == [(16, 1), (16, 3), (4, 1), (4, 3)]
    for row in rows:
        rate = row["batch"] / row["ms_per_step"] * 1000
        assert row["tokens_per_second"] == pytest.approx(rate)
        assert row["of_roofline"] == pytest.approx(row["tokens_per_second"] / row["roofline"])
    assert rows[2]["weight_bytes"] < rows[0]["weight_bytes"]


def test_bytes_a_step_are_those_held():
    [entry] = [e for e in load_models()["sotu-neox"] if e.name == "sotu-neox-32x2"]
    full = bench.packed_model(entry, Setting.make(16), "cpu")
    packed = bench.packed_model(entry, Setting.make(4, "int", block_size=64), "cpu")
    n = sum(m.in_features * m.out_features for m in packed.modules() if isinstance(m, KBitLinear))
    layers = [m for m in packed.modules() if isinstance(m, KBitLinear)]
    held = sum(m.words.nbytes + m.absmax.nbytes + m.bias.nbytes for m in layers)
    biases = sum(m.out_features for m in layers)
    saved = bytes_a_step(full) - bytes_a_step(packed)
    assert saved == 4 * (n + biases) - held - layers[0].codebook.nbytes
    embedding = full.get_input_embeddings().weight.nbytes
    everything = sum(t.nbytes for t in (*full.parameters(), *full.buffers()))
    assert bytes_a_step(full) == everything - embedding  # its head is a matrix of its own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model"], "no family or model 'no-such-model'"),
        (["sotu-neox"], "is a family: name one of its models (sotu-neox-32x2, "),
        (["sotu-neox-32x2", "--data-type", "fancy"], "data_type: 'fancy'"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    assert main(["bench", "latency", *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.strip().splitlines()) == 1
