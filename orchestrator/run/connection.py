"""The Ray cluster of a sweep: the one that runs already, or a private one that ends with us.

A private cluster listens on the loopback interface alone, behind a token of its own.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.errors import InputError, SweepStopped
from orchestrator.run.cluster_address import check_answer, running_cluster
from orchestrator.run.watchdog import watch

JOIN_SECONDS = 20.0
START_SECONDS = 120.0  # takes 3 to 20, but a busy machine may need two tries
SOCKET_PATH_BYTES = 107  # what Linux allows
# Ray would take a third of the machine's memory, more than `ulimit -v` may allow; what travels here
# are jobs and scores.
OBJECT_STORE_BYTES = 256 << 20
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


def join_cluster() -> bool:
    """Connect to the cluster of RAY_ADDRESS, else to the one that `ray start` left running on this
    machine. False where there is none.

    Raises SweepStopped where either names what is no Ray cluster, or one that does not let us in.
    """
    import ray

    if ray.is_initialized():
        return True
    _set_defaults()
    found = running_cluster()
    if found is None:
        return False
    place, address = found
    check_answer(place, address)
    silent = f"{place}: {address} does not answer as a Ray cluster does"
    if "RAY_AUTH_MODE" not in os.environ:  # one that wants a token lets Ray try for ever
        silent += ", or not without its token: set RAY_AUTH_MODE=token"
    with _deadline(JOIN_SECONDS, silent):
        try:
            ray.init(**_QUIET)  # finds the same, and its token; an address given here would not
        except Exception as error:
            raise SweepStopped(f"{place}: cannot join {address}: {_first_line(error)}") from None
    return True


def start_ray() -> None:
    """Connect to the running cluster, or start a private one that ends with this process.

    Raises SweepStopped as `join_cluster` does and when none starts.
    """
    if join_cluster():
        return
    import ray

    _check_socket_path()
    watch()  # from here on, so that a start that fails leaves nothing behind
    # A token for this process alone. Ray would leave one in ~/.ray, after which `ray job submit` as
    # typed would be refused.
    os.environ.pop("RAY_AUTH_MODE", None)  # Ray's default for a cluster of its own is a token
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    _keep_to_loopback()
    options: dict[str, Any] = {
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    with _deadline(START_SECONDS, f"no local Ray cluster starts within {START_SECONDS:.0f} s"):
        try:
            ray.init(**options, **_QUIET)
        except Exception:  # on a busy machine its processes do not always find each other in time
            ray.shutdown()
            try:
                ray.init(**options, **_QUIET)
            except Exception as error:
                raise SweepStopped(f"no local Ray cluster starts: {_first_line(error)}") from None


def _check_socket_path() -> None:
    """Raises InputError for a temporary folder with too long a name for Ray's sockets."""
    from ray._common.utils import get_default_ray_temp_dir

    folder = get_default_ray_temp_dir()
    name = f"/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    excess = len(os.fsencode(os.path.abspath(folder) + name)) - SOCKET_PATH_BYTES
    if excess > 0:
        variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
        raise InputError(
            f"{variable}: {os.environ.get(variable)} is {excess} bytes too long for Ray's sockets; "
            "set RAY_TMPDIR to a short folder, e.g. RAY_TMPDIR=/tmp"
        )


def _set_defaults() -> None:
    from ray._private import utils

    utils.set_sigterm_handler = lambda handler: None  # orchestrator.run.interrupt has one
    # Ray would otherwise wrap the actors' environment when launched by `uv run`, and phone home.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _keep_to_loopback() -> None:
    """Let the processes of a private cluster listen on the loopback interface, on any free port.

    `ray.init` has no option for either: it makes the machine's address of a loopback one. On the
    default port of Ray's agent, that of a later `ray start` could not listen, and `ray job submit`
    would find "no available agent".
    """
    from ray._private import parameter

    general = parameter.RayParams

    def private(**options: Any) -> Any:
        ours = {"node_ip_address": "127.0.0.1", "dashboard_agent_listen_port": 0}
        return general(**{**options, **ours})

    parameter.RayParams = private  # type: ignore[misc, assignment]


@contextmanager
def _deadline(seconds: float, reason: str) -> Iterator[None]:
    """End the process, with one line and exit code 3, if the body hangs: Ray's waits know no end
    and hear no signal. The watchdog ends what a private cluster leaves."""

    def end() -> None:
        print(f"error: {reason}", file=sys.stderr, flush=True)
        os._exit(3)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), repr(error))
