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
