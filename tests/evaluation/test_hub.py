from __future__ import annotations

import pytest

from evaluation import hub
from evaluation.hub import ASK_AGAIN_AFTER, from_hub


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
