"""The nodes of the Ray cluster: whether they live, and what they still have room for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from orchestrator.errors import SweepStopped
from orchestrator.run.cluster_address import listens

Need = dict[str, float]  # resources of one worker, by Ray's names: CPU, GPU


def check_alive() -> None:
    """Raises SweepStopped when the cluster's head or this driver's node is gone.

    Ray itself would wait for the head for a minute, for the node forever.
    """
    import ray

    context = ray.get_runtime_context()
    for _ in range(3):
        if listens(context.gcs_address):
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


def shortage(need: Need, nodes: dict[str, Need]) -> str | None:
    """What a worker needs that no node has, in words; None where a node could hold it if idle."""
    if any(_holds(node, need) for node in nodes.values()):
        return None
    there = {
        ", ".join(_amount(node.get(name, 0), name) for name in need) for node in nodes.values()
    }
    wanted = " and ".join(_amount(amount, name) for name, amount in need.items())
    return f"a worker needs {wanted} on one node; the nodes have {'; '.join(sorted(there))}"


def _amount(amount: float, name: str) -> str:
    return f"{amount:g} {name}{'' if amount == 1 else 's'}"


def _holds(free: Need, need: Need) -> bool:
    return all(free.get(name, 0) >= amount - 1e-6 for name, amount in need.items())


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
            if _holds(free, need):
                self._subtract(need, free)
                return True
        return False

    @staticmethod
    def _subtract(need: Need, free: dict[str, Any]) -> None:
        for name, amount in need.items():
            free[name] = free.get(name, 0) - amount
