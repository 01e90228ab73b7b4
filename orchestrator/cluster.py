"""The Ray cluster: connect or start one, and count what its nodes still have room for."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.errors import InputError, SweepStopped
from orchestrator.watchdog import watch

Need = dict[str, float]  # resources of one worker, by Ray's names: CPU, GPU


def start_ray() -> None:
    """Connect to the running cluster, or start a local one that ends with this process."""
    # Ray would otherwise wrap the actors' environment when launched by `uv run`, and phone home.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS") or _started_cluster()
    if address and address != "local":
        if not _answers(address):
            raise InputError(f"RAY_ADDRESS: no Ray cluster answers at {address}")
        ray.init(**quiet)  # finds the same, and its token; an address given here would not
    else:
        # Its ports are open to the network, so a token guards them: one for this process alone. Ray
        # would leave one in ~/.ray, after which `ray job submit` as typed would be refused.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        options: dict[str, Any] = {
            "address": "local",
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
        _leave_default_ports()
        try:
            ray.init(**options, **quiet)
        except Exception:  # on a busy machine its processes do not always find each other in time
            ray.shutdown()
            try:
                ray.init(**options, **quiet)
            except Exception as error:
                raise SweepStopped(f"no local Ray cluster starts: {error}") from None
        watch(ray.get_runtime_context().get_session_name())


def _leave_default_ports() -> None:
    """Let a private cluster's agent listen on any free port.

    `ray.init` has no option for it. On Ray's default, the agent of a later `ray start` could not
    listen, and `ray job submit` would find "no available agent".
    """
    from ray._private import parameter

    any_port = partial(parameter.RayParams, dashboard_agent_listen_port=0)
    parameter.RayParams = any_port  # type: ignore[misc, assignment]


def _started_cluster() -> str | None:
    """Address of the cluster that `ray start` left running on this machine.

    Not Ray's `auto`, which also finds the private cluster of any other sweep and dies with it.
    """
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    address = file.read_text().strip() if file.is_file() else ""
    return address if address and _answers(address) else None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    if not port.isdigit():  # "auto", ray://...: for Ray to judge
        return True
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def check_alive() -> None:
    """Raises SweepStopped when the cluster's head or this driver's node is gone.

    Ray itself would wait for the head for a minute, for the node forever.
    """
    import ray

    context = ray.get_runtime_context()
    for _ in range(3):
        if _answers(context.gcs_address):
            break
        time.sleep(1)
    else:
        raise SweepStopped(f"the Ray cluster at {context.gcs_address} is gone")
    if context.get_node_id() not in node_resources():
        raise SweepStopped("the Ray node that this driver runs on is gone")


def node_resources() -> dict[str, Need]:
    """Total CPUs and GPUs of every living node, by node id."""
    import ray

    return {n["NodeID"]: dict(n["Resources"]) for n in ray.nodes() if n["Alive"]}


def has_gpu() -> bool:
    """Whether any node of the cluster has a GPU."""
    return any(node.get("GPU", 0) >= 1 for node in node_resources().values())


class Room:
    """What the nodes have left beside our own workers. A worker's resources lie on one node."""

    def __init__(self, nodes: dict[str, Need], workers: Iterable[tuple[Need, str | None]]) -> None:
        """`workers`: what each holds and its node, None while Ray has not placed it."""
        self._free = {node: dict(resources) for node, resources in nodes.items()}
        placed = sorted(workers, key=lambda worker: worker[1] is None)
        for need, node in placed:
            if node is None:
                self.take(need)
            elif node in self._free:
                self._subtract(need, self._free[node])

    def take(self, need: Need) -> bool:
        """Reserve room for one worker on the first node that has it."""
        for free in self._free.values():
            if all(free.get(name, 0) >= amount - 1e-6 for name, amount in need.items()):
                self._subtract(need, free)
                return True
        return False

    @staticmethod
    def _subtract(need: Need, free: dict[str, Any]) -> None:
        for name, amount in need.items():
            free[name] = free.get(name, 0) - amount
