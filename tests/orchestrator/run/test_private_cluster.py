"""The cluster that a sweep starts for itself: nobody else gets in, nothing of it is left."""

import contextlib
import http.client
import resource
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import psutil
import pytest

from orchestrator.run.cluster import shortage
from orchestrator.store.store import Store
from orchestrator.sweep import main
from tests.orchestrator import processes


def listening_addresses(folder: str) -> dict[str, str]:
    """host:port -> name, of every TCP socket on which the cluster's processes wait for calls."""
    found = {}
    for pid in processes.processes_of(folder):
        with contextlib.suppress(psutil.Error):  # ended meanwhile
            process = psutil.Process(pid)
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    host, port = connection.laddr
                    found[f"{host.removeprefix('::ffff:')}:{port}"] = process.name()
    return found


def status_of_a_call(address: str) -> grpc.StatusCode:
    """What the cluster's head says to someone without its token."""
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        with pytest.raises(grpc.RpcError) as error:
            ask(b"", timeout=20)
    return error.value.code()


def takes_a_job(address: str) -> bool:
    """Whether a port lets someone without the token run a command, as `ray job submit` does."""
    url = f"http://{address}/api/job_agent/jobs/"
    ask = urllib.request.Request(url, b'{"entrypoint": "true"}', {"Content-Type": "text/json"})
    try:
        urllib.request.urlopen(ask, timeout=5).close()
    except (OSError, http.client.HTTPException):  # refused, or it does not speak HTTP/1
        return False
    return True


def test_it_listens_on_loopback_wants_a_token_and_little_memory(study):
    with processes.ray_folder() as folder:
        process = processes.start(folder, study, KBIT_JOB_SECONDS="60")
        resource.prlimit(process.pid, resource.RLIMIT_AS, (6 << 30, 6 << 30))  # as ulimit -v does
        assert processes.wait_until(lambda: processes.processes_of(folder, "ray::Actor"))
        addresses = listening_addresses(folder)
        assert {address.rpartition(":")[0] for address in addresses} == {"127.0.0.1"}
        [head] = [address for address, name in addresses.items() if name == "gcs_server"]
        assert status_of_a_call(head) == grpc.StatusCode.UNAUTHENTICATED
        assert not [address for address in addresses if takes_a_job(address)]
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        assert not processes.left_after(folder)


def test_a_finished_sweep_again_starts_none(study):
    database = study.parent / "t.db"
    assert main([str(study), "--db", str(database), "--executor", "local"]) == 0
    before = Store.open(f"sqlite:///{database}").attempts()
    command = [Path(sys.executable).parent / "kbit", "sweep", study, "--db", database]
    with processes.ray_folder() as folder:
        for _ in range(2):
            again = subprocess.run(
                command, text=True, capture_output=True, timeout=60,
                env={**processes.ENVIRONMENT, "RAY_TMPDIR": folder},
            )  # fmt: skip
            assert again.returncode == 0, again.stderr
            assert "3 stored, 0 to do" in again.stdout and "all 3 experiments" in again.stdout
        assert not list(Path(folder).iterdir())  # not even a folder of a session
    assert len(Store.open(f"sqlite:///{database}").attempts()) == len(before)


def test_a_need_that_no_node_can_hold_ends_the_sweep(study):
    study.write_text(study.read_text() + "compute: {threads_per_worker: 4096}\n")
    with processes.ray_folder() as folder:
        process = processes.start(folder, study)
        output, _ = process.communicate(timeout=90)
        assert process.returncode == 3, output
        assert "a worker needs 4096 CPUs on one node; the nodes have" in output
        assert "--wait" in output and processes.attempts(study) == 0
        assert not processes.left_after(folder)


def test_needs_are_compared_with_whole_nodes():
    nodes = {"a": {"CPU": 8.0, "GPU": 1.0}, "b": {"CPU": 64.0}}
    assert shortage({"CPU": 1, "GPU": 1}, nodes) is None
    assert shortage({"CPU": 32}, nodes) is None
    assert shortage({"CPU": 1, "GPU": 2}, nodes) == (
        "a worker needs 1 CPU and 2 GPUs on one node; the nodes have 64 CPUs, 0 GPUs; 8 CPUs, 1 GPU"
    )
