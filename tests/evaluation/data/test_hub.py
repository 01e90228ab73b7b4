from __future__ import annotations

import pytest

from evaluation.data import hub
from evaluation.data.errors import DataError
from evaluation.data.hub import ASK_AGAIN_AFTER, from_hub
from quantizers.checkpoint import UnusableModel


def test_a_hub_that_cannot_be_reached_is_not_asked_again_at_once(monkeypatch):
    now, calls = [1000.0], []
    monkeypatch.setattr(hub.time, "monotonic", lambda: now[0])

    def unreachable():
        calls.append(now[0])
        raise ConnectionError("name not known.\nlong trace")

    expected = r"^the set cannot be fetched from the hub: name not known\. Copy it\.$"
    for wait in (0, 1, ASK_AGAIN_AFTER - 2, 2):
        now[0] += wait
        with pytest.raises(ValueError, match=expected):
            from_hub("the set", unreachable, "Copy it.")
    assert calls == [1000.0, 1000.0 + ASK_AGAIN_AFTER + 1]
    assert from_hub("another set", lambda: 7, "") == 7
    now[0] += ASK_AGAIN_AFTER
    assert from_hub("the set", lambda: 8, "") == 8


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("answer"), r"^the set cannot be read: KeyError: 'answer'$"),
        (OSError(28, "No space left on device"), r"cannot be read: OSError: .*No space left"),
        (MemoryError(), r"cannot be read: MemoryError"),
    ],
)
def test_what_is_not_the_hubs_fault_is_called_by_its_name(error, message):
    def load():
        raise error

    with pytest.raises(DataError, match=message):
        from_hub("the set", load, "Copy it.")
    assert from_hub("the set", lambda: 7, "") == 7  # it may be mended at once


def test_a_data_set_is_looked_for_before_it_is_needed(monkeypatch, tmp_path):
    from datasets import config

    def silent(question, named):
        return None

    def refuses(question, named):
        raise UnusableModel(f"{named}: the hub has no such repository")

    monkeypatch.setattr(hub, "ask_hub", lambda question, named: object())
    hub.check_dataset("the set", "owner/The_Set", "Copy it.")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    for answer, reason in ((silent, "the hub cannot be"), (refuses, "the hub has no")):
        monkeypatch.setattr(hub, "ask_hub", answer)
        with pytest.raises(DataError, match=f"^the set cannot be fetched.*: {reason}.* Copy it"):
            hub.check_dataset("the set", "owner/The_Set", "Copy it.")
    (tmp_path / "owner___the_set").mkdir()  # as datasets calls it
    hub.check_dataset("the set", "owner/The_Set", "Copy it.")
