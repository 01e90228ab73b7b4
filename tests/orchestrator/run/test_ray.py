"""Ray as users have it: `ray job submit`, several nodes, nodes that come and go, shared GPUs."""

import os
import socket
import subprocess
import time
import uuid
from functools import partial
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from orchestrator.paths import ROOT
from orchestrator.run.pool import Pool
from orchestrator.store.store import Store
from orchestrator.study.experiment import Experiment
from orchestrator.study.job import Job, JobResult
from orchestrator.study.models import ModelEntry
from quantizers.setting import Setting
from tests.orchestrator import processes

FREE = 6  # jobs that wait for nothing


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A Ray cluster started as the README says, on the loopback interface."""
    with processes.ray_folder() as folder:
        results = tmp_path_factory.mktemp("results")
        environment = {
            **processes.ENVIRONMENT, "RAY_TMPDIR": folder, "KBIT_RESULTS": str(results),
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2,
        }  # fmt: skip
        start = [processes.BIN / "ray", "start", "--head", "--port=0", "--num-cpus=2", "--block"]
        addresses = ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
        port, agent_port = free_port(), free_port()
        process = subprocess.Popen(
            [*start, *addresses, f"--dashboard-port={port}",
             f"--dashboard-agent-listen-port={agent_port}"],
            env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail("ray did not start:\n" + "".join(lines))
        yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}, results
        process.terminate()  # with --block, Ray takes its own children along
        process.wait(timeout=60)


def test_ray_job_submit(started, study):
    """Two at a time on one cluster: as the README says, and from a copy of the code.

    A relative database path lands in the results folder, not in Ray's copy.
    """
    environment, results = started
    study.write_text(study.read_text() + "compute: {workers: 1}\n")
    submit = [processes.BIN / "ray", "job", "submit"]
    jobs = {}
    for db, options in [(study.parent / "t.db", []), ("relative/t.db", ["--working-dir", "."])]:
        command = [*submit, *options, "--", "orchestrator/sweep.py", study, "--db", db]
        jobs[results / db] = subprocess.Popen(  # an absolute path stays what it is
            command, env=environment, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    for path, job in jobs.items():
        output, _ = job.communicate(timeout=240)
        assert job.returncode == 0, output
        assert f"database: sqlite:///{path}" in output
        assert Store.open(f"sqlite:///{path}").results()["experiment_id"].nunique() == 3


class NodeWorker:
    """Says where it ran: node, visible GPUs, process. The last jobs wait for a third process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, job: Job) -> JobResult:
        node = ray.get_runtime_context().get_node_id()
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        host = f"{node} {gpus} {os.getpid()}"
        (self.folder / host).touch()
        time.sleep(0.1)
        if job.experiment.setting.block_size > FREE:
            processes.wait_until(lambda: len(list(self.folder.iterdir())) >= 3)
        return JobResult(job, "done", seconds_score=1.0, host=host)  # too slow for batches


class SlowStart:
    """Takes a second to start, and no time to work."""

    def __init__(self) -> None:
        time.sleep(1)

    def run(self, job: Job) -> JobResult:
        return JobResult(job, "done")


def jobs_of(count: int, device: str = "cpu", **model) -> list[Job]:
    entry = ModelEntry(family="f", hub="m", **{"name": "m", **model})
    return [
        Job(
            Experiment(
                entry, "main", Setting.make(bits=4, data_type="int", block_size=b), "float32"
            ),
            [],
            device,
            1,
        )
        for b in range(1, count + 1)
    ]


@pytest.fixture(scope="module")
def cluster():
    """Ray's own cluster, to which tests add nodes on the same host."""
    with processes.ray_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_TMPDIR", folder)  # nobody else shall find it
        patch.setenv("RAY_worker_niceness", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def nodes_of(results: list[JobResult]) -> set[str]:
    return {result.host.split()[0] for result in results}


def test_all_nodes_are_used_one_is_lost_another_joins(cluster, tmp_path):
    first, second = cluster.head_node, cluster.add_node(num_cpus=1, num_gpus=0)
    jobs, collected, third = jobs_of(FREE + 4), [], None
    for results in Pool(jobs, partial(NodeWorker, tmp_path)).results():
        collected += results
        done = [result for result in collected if result.status == "done"]
        if second is not None and nodes_of(done) == {first.node_id, second.node_id}:
            cluster.remove_node(second, allow_graceful=False)
            second, third = None, cluster.add_node(num_cpus=1, num_gpus=0)
    assert third is not None
    ids = [result.job.experiment.id for result in done]
    assert sorted(ids) == sorted(job.experiment.id for job in jobs)
    assert {first.node_id, third.node_id} < nodes_of(done)  # and the one that is gone
    assert len(nodes_of(done)) == 3


def test_models_share_a_gpu_only_as_often_as_models_yaml_says(cluster, tmp_path):
    """Ray counts GPUs, it does not look: the node says that it has three."""
    cluster.add_node(num_cpus=6, num_gpus=3)
    jobs = [
        *jobs_of(FREE + 1, "cuda", name="large", gpus=2),
        *jobs_of(FREE + 4, "cuda", name="small", per_gpu=2),
    ]
    done = [
        result
        for results in Pool(jobs, partial(NodeWorker, tmp_path)).results()
        for result in results
    ]
    served: dict[str, dict[str, set[str]]] = {"large": {}, "small": {}}
    for result in done:
        _, gpus, pid = result.host.split()
        served[result.job.experiment.model.name].setdefault(gpus, set()).add(pid)
    assert len(done) == len(jobs)
    [(gpus, pids)] = served["large"].items()
    assert len(gpus.split(",")) == 2 and len(pids) == 1
    assert all("," not in gpus for gpus in served["small"])
    [alone] = {"0", "1", "2"} - set(gpus.split(","))  # used beside the large model, by two
    assert len(served["small"][alone]) == 2


def test_workers_time_counts_from_their_start(cluster):
    pool = Pool(jobs_of(1), SlowStart)
    assert sum(len(results) for results in pool.results()) == 1
    assert 1 <= pool.worker_seconds < 60
