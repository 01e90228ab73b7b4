"""Names on the hub become commits; what cannot be had is said in one line, and soon."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from quantizers import hub
from quantizers.checkpoint import Checkpoint, UnusableModel
from quantizers.hub import HubUnreachable, Repository, find_repository, resolve_commit
from quantizers.loading import load_model
from tests.quantizers.test_loading import CAUSAL, saved

COMMIT, OTHER = "a" * 40, "b" * 40
ANSWERS = {
    "x/known": (
        200,
        "",
        {"sha": COMMIT, "id": "x/known", "siblings": [{"rfilename": "config.json"}]},
    ),
    "x/gated": (403, "GatedRepo", {}),
    "x/unknown": (404, "RepoNotFound", {}),
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as is asked of it; `silent` never answers."""

    asked: list[str] = []

    def do_GET(self) -> None:
        Hub.asked.append(self.path)
        if "x/silent" in self.path:
            time.sleep(5)
            return
        name = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
        code, kind, body = ANSWERS.get(name, ANSWERS["x/unknown"])
        if "/revision/nonesuch" in self.path:
            code, kind, body = 404, "RevisionNotFound", {}
        self.send_response(code)
        if kind:
            self.send_header("X-Error-Code", kind)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    do_HEAD = do_GET

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch, tmp_path: Path) -> Iterator[str]:
    """A hub of our own, with an empty local cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_silent_since", float("-inf"))
    Hub.asked.clear()
    yield url
    server.shutdown()
    server.server_close()


@pytest.fixture
def unreachable(endpoint: str, monkeypatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens


def test_names_become_commits(endpoint) -> None:
    assert resolve_commit("x/known", None) == resolve_commit("x/known", "main") == COMMIT
    assert find_repository("x/known", "main") == Repository(COMMIT, frozenset({"config.json"}))
    Hub.asked.clear()
    assert resolve_commit("x/anything", OTHER) == OTHER and not Hub.asked


@pytest.mark.parametrize(
    ("name", "revision", "reason"),
    [
        ("x/unknown", None, "no such repository"),
        ("x/unknown", COMMIT, "no such repository"),
        ("x/gated", None, "gated"),
        ("x/known", "nonesuch", "no such revision"),
        ("a/b/c", None, "neither a local folder nor a name that the hub can have"),
    ],
)
def test_the_hubs_no_is_one_line(endpoint, name: str, revision, reason: str) -> None:
    with pytest.raises(UnusableModel, match=reason) as caught:
        find_repository(name, revision)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_network_the_local_cache_answers(unreachable, tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match="cannot be reached.*lacks it"):
        resolve_commit("x/known", None)
    with pytest.raises(HubUnreachable):
        find_repository("x/known", COMMIT)
    repository = tmp_path / "models--x--known"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    assert resolve_commit("x/known", None) == COMMIT
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}")
    for revision in ("main", COMMIT):
        found = find_repository("x/known", revision)
        assert (found.commit, found.copy) == (COMMIT, repository / "snapshots" / COMMIT)


def test_a_hub_that_hangs_is_waited_for_once(endpoint, monkeypatch) -> None:
    monkeypatch.setattr(hub, "SECONDS", 0.5)
    started = time.monotonic()
    for _ in range(3):
        with pytest.raises(HubUnreachable):
            resolve_commit("x/silent", None)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_loading_from_the_hub_says_why_not(endpoint, monkeypatch, revision) -> None:
    with pytest.raises(UnusableModel) as caught:
        load_model(Checkpoint("m", "x/unknown", revision), "cpu")
    assert str(caught.value) == (
        f"model m: x/unknown@{revision or 'main'}: the hub has no such repository, or it is "
        "private (hf auth login)"
    )


def test_loading_without_a_network_says_so(unreachable) -> None:
    with pytest.raises(UnusableModel, match="model m: .*hub cannot be reached"):
        load_model(Checkpoint("m", "x/known"), "cpu")


def test_without_a_network_model_and_tokenizer_come_from_the_cache(unreachable, tmp_path) -> None:
    for name in ("x/model", "x/tokenizer"):
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(COMMIT)
        saved(repository / "snapshots" / COMMIT, CAUSAL["llama"])
    (tmp_path / "models--x--model" / "snapshots" / COMMIT / "tokenizer.json").unlink()
    started = time.monotonic()
    for tokenizer in ("x/tokenizer", f"x/tokenizer@{COMMIT}"):
        _, found = load_model(Checkpoint("m", "x/model", tokenizer=tokenizer), "cpu")
        assert len(found) == 49
    assert time.monotonic() - started < 20  # the library's retries take a minute
