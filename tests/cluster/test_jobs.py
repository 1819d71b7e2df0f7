"""Jobs in a lab: the stock docker command waits for them, a drained node's part runs elsewhere, and
what has completed is not run again by a daemon that starts afresh."""

from tests.cluster.conftest import Cluster, Names

JOB = ("service", "create", "--no-resolve-image", "--entrypoint", "sh", "--mode")


def replicas(cluster: Cluster, name: str) -> str:
    listed = ("service", "ls", "--filter", f"name={name}", "--format", "{{.Replicas}}")
    return str(cluster.docker("node1", *listed)).strip()


def test_jobs_complete_once_whatever_happens_to_nodes(
    cluster: Cluster, names: Names, healthy: Cluster
) -> None:
    everywhere = cluster.docker(
        "node1", *JOB, "global-job", "--name", names("everywhere"), cluster.image, "-c", "exit 0"
    )
    assert "job complete" in everywhere
    assert replicas(cluster, "everywhere") == "0/0 (3/3 completed)"

    cluster.docker(
        "node1", *JOB, "replicated-job", "-d", "--name", names("slow"), "--replicas", "4",
        "--max-concurrent", "2", "--stop-grace-period", "1s", "--constraint", "node.role==worker",
        cluster.image, "-c", "sleep 3",
    )  # fmt: skip
    cluster.eventually(lambda: cluster.containers("node3", "slow"), 20)
    cluster.docker("node1", "node", "update", "--availability", "drain", "node3")
    cluster.eventually(lambda: replicas(cluster, "slow") == "0/2 (4/4 completed)", 60)
    cluster.docker("node1", "node", "update", "--availability", "active", "node3")
    completed = cluster.tasks("slow") + cluster.tasks("everywhere")
    for node in ("node1", "node3"):
        cluster.lab("restart", node)
    cluster.eventually(lambda: replicas(cluster, "everywhere") == "0/0 (3/3 completed)", 30)
    cluster.docker("node1", "service", "update", "--force", "everywhere")
    assert replicas(cluster, "everywhere") == "0/0 (3/3 completed)"
    after = cluster.tasks("slow") + cluster.tasks("everywhere")
    assert {task["ID"] for task in completed} <= {task["ID"] for task in after}
    assert len(after) == len(completed) + 3
