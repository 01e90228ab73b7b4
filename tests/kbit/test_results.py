"""`kbit results`: its table tells rows apart that differ in any factor."""

from dataclasses import replace

from kbit import cli
from orchestrator.store.store import Store
from quantizers.setting import Setting
from tests.orchestrator.store.test_store import result


def test_factors_are_shown_where_rows_differ_in_them(tmp_path, capsys):
    store = Store.create(f"sqlite:///{tmp_path}/t.db")
    for hessian in ("original", "sequential"):
        rounding = {"gptq": {"hessian": hessian}}
        setting = Setting.make(
            4, "int", block_size=64, rounding=rounding, calibration="c", scales="clipped"
        )
        made = result(4)
        made.job.experiment = replace(made.job.experiment, setting=setting)
        store.record(made)
    store.close()
    assert cli.main(["results", "--db", f"sqlite:///{tmp_path}/t.db"]) == 0
    out = capsys.readouterr().out
    assert "gptq_hessian" in out and "sequential" in out and "original" in out
    assert "scales" not in out and "gptq_dead" not in out  # equal in all rows


def test_what_tells_two_measurements_apart_is_shown(tmp_path, capsys):
    store = Store.create(f"sqlite:///{tmp_path}/t.db")
    first, other_protocol, other_dtype = result(4), result(4), result(4)
    ((protocol, measurement),) = other_protocol.measurements
    shots = replace(protocol, settings=protocol.settings | {"num_fewshot": 5, "context": 64})
    other_protocol.job.protocols = [shots]
    other_protocol.measurements = [(shots, measurement)]
    experiment = other_dtype.job.experiment
    other_dtype.job.experiment = replace(experiment, compute_dtype="float16")
    store.record(first, other_protocol, other_dtype)
    store.close()
    assert cli.main(["results", "--db", f"sqlite:///{tmp_path}/t.db"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert len(set(rows)) == len(rows) >= 3
    for name in ("num_fewshot", "context", "compute_dtype"):
        assert name in head
    for name in ("limit", "max_tokens", "revision", "load_dtype", "source"):
        assert name not in head  # equal in all rows
