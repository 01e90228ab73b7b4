from __future__ import annotations

import pytest
import torch

from evaluation.data import hub


@pytest.fixture(scope="session", autouse=True)
def task_cache(tmp_path_factory):
    """The tests build their own tasks, once, and leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KBIT_CACHE", str(tmp_path_factory.mktemp("kbit-cache")))
        yield


@pytest.fixture(autouse=True)
def hub_to_be_asked(monkeypatch):
    """What one test could not reach, another asks for again."""
    monkeypatch.setattr(hub, "_failed", {})


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
