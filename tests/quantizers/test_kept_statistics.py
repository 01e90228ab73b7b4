import multiprocessing
import os

import pytest
import torch

from quantizers import kept_statistics
from quantizers.calibration import collect, site_inputs
from quantizers.kept_statistics import KeptStatistics, statistics_key
from quantizers.wiring import wiring_of
from tests.quantizers.tiny_models import VOCAB, tiny_model

WINDOWS = torch.arange(60).view(3, 20) % VOCAB


def kept(folder, log):
    """Statistics of a tiny model in `folder`; every collection adds a line to the file `log`."""
    model = tiny_model("gpt2")
    wiring = wiring_of(model)

    def collected():
        with log.open("a") as file:
            file.write("collected\n")
        return collect(model, wiring, WINDOWS)

    return KeptStatistics(folder, site_inputs(wiring), collected)


def collections(log):
    return len(log.read_text().splitlines())


def same(one, other):
    return all(
        torch.equal(getattr(one[name], field), getattr(other[name], field))
        for name in one
        for field in ("channel_max", "channel_mean", "token_max", "hessian")
    ) and all(one[name].n_tokens == other[name].n_tokens for name in one)


def test_collected_once_and_read_after(tmp_path):
    log = tmp_path / "log"
    first = kept(tmp_path / "kept", log)
    assert len(first) == 12 and first["transformer.h.0.attn.c_attn"].n_tokens == 60
    again = kept(tmp_path / "kept", log)
    assert same(first, again) and collections(log) == 1
    with pytest.raises(KeyError):
        again["lm_head"]  # tied to the embedding


@pytest.mark.parametrize("damage", ["removed", "cut", "flipped", "other"])
def test_what_is_missing_or_damaged_is_collected_once_more(tmp_path, damage):
    log = tmp_path / "log"
    whole = dict(kept(tmp_path / "kept", log))
    path = tmp_path / "kept" / "transformer.h.1.mlp.c_fc.npz"
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes((tmp_path / "kept" / "transformer.h.0.mlp.c_proj.npz").read_bytes()[:99])
    assert same(whole, dict(kept(tmp_path / "kept", log)))
    assert collections(log) == 2


def _ask(folder, log, started):
    started.wait()
    torch.set_num_threads(1)
    os._exit(0 if len(dict(kept(folder, log))) == 12 else 1)


def test_of_four_processes_that_ask_at_once_one_collects(tmp_path):
    context = multiprocessing.get_context("fork")
    started, log = context.Event(), tmp_path / "log"
    asking = [
        context.Process(target=_ask, args=(tmp_path / "kept", log, started)) for _ in range(4)
    ]
    for process in asking:
        process.start()
    started.set()
    for process in asking:
        process.join(120)
    assert [process.exitcode for process in asking] == [0] * 4
    assert collections(log) == 1


def test_a_full_disk_costs_memory_not_the_result(tmp_path, monkeypatch):
    log = tmp_path / "log"
    whole = dict(kept(tmp_path / "kept", log))
    monkeypatch.setattr(kept_statistics, "write_arrays", lambda *_: False)
    full = kept(tmp_path / "other", log)
    assert same(whole, full) and same(whole, full) and collections(log) == 2


def test_the_key_follows_everything_that_matters():
    parts = ("model@main", WINDOWS, "float16 float32", "cpu")
    key = statistics_key(*parts)
    assert key == statistics_key("model@main", WINDOWS.clone(), *parts[2:])
    for place, other in enumerate(("model@1", WINDOWS + 1, "bfloat16 float32", "H100")):
        changed = [*parts]
        changed[place] = other
        assert statistics_key(*changed) != key
    assert statistics_key("model@main", WINDOWS.view(6, 10), *parts[2:]) != key
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert statistics_key(*parts) != key
    finally:
        torch.set_num_threads(threads)
