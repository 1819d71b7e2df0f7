"""Networks and services as the stock docker command sees them: a real server on a UNIX socket,
behind it a whole node."""

import json
import re
import shutil
from typing import Any

import docker
import pytest
from docker.types import RestartPolicy

from tests.conformance.client import Daemon, eventually
from tests.support.fake_images import IMAGE

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")


# --- networks


def test_networks_from_creation_to_removal(manager: Daemon) -> None:
    id = manager.ok(
        "network",
        "create",
        "-d",
        "overlay",
        "--subnet",
        "10.10.10.0/24",
        "--attachable",
        "--label",
        "a=b",
        "n",
    ).strip()
    assert re.fullmatch(r"[0-9a-z]{25}", id)
    seen = json.loads(manager.ok("network", "inspect", "n"))[0]
    assert seen["Id"] == id
    assert seen["Options"] == {"com.docker.network.driver.overlay.vxlanid_list": "4097"}
    assert seen["IPAM"]["Config"] == [{"Subnet": "10.10.10.0/24", "Gateway": "10.10.10.1"}]
    assert (seen["Scope"], seen["Attachable"], seen["Labels"]) == ("swarm", True, {"a": "b"})
    rows = {
        tuple(line.split())
        for line in manager.ok("network", "ls", "--format", "{{.Name}} {{.Scope}}").splitlines()
    }
    assert rows >= {
        ("n", "swarm"),
        ("ingress", "swarm"),
        ("docker_gwbridge", "local"),
        ("host", "local"),
    }
    assert (
        manager.ok(
            "network", "ls", "-q", "--no-trunc", "--filter", "name=n$", "--filter", "scope=swarm"
        ).strip()
        == id
    )
    assert "network with name n already exists" in manager.refused(
        "network", "create", "-d", "overlay", "n"
    )
    assert "10.10.10.0/24 overlaps" in manager.refused(
        "network", "create", "-d", "overlay", "--subnet", "10.10.10.0/24", "m"
    )
    manager.container("--network", "n")
    assert f"network {id} is in use by service" in manager.refused("network", "rm", "n")
    manager.ok("service", "rm", "web")
    assert manager.ok("network", "rm", id[:6]) == f"{id[:6]}\n"
    assert "network n not found" in manager.refused("network", "inspect", "n")
    manager.ok("network", "create", "-d", "overlay", "idle")
    assert "Deleted Networks:\nidle" in manager.ok("network", "prune", "-f")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-d", "macvlan", "n"], "driver macvlan is not supported"),
        (
            ["-d", "overlay", "--opt", "encrypted=no", "n"],
            "cannot create network n: option encrypted: 'no' would encrypt it",
        ),
        (
            ["-d", "overlay", "--opt", "com.weft.network.esp.icv=64", "n"],
            "esp.icv needs option encrypted",
        ),
        (
            ["-d", "overlay", "--opt", "encrypted", "--opt", "com.weft.network.esp.icv=96", "n"],
            "is neither 64 nor 128",
        ),
        (
            ["-d", "overlay", "--opt", "com.docker.network.driver.mtu=fast", "n"],
            "failed to parse 'fast' as MTU",
        ),
        (["-d", "overlay", "--ipv6", "n"], "IPv6"),
        (
            ["-d", "overlay", "--scope", "local", "n"],
            "cannot downgrade network scope for overlay networks",
        ),
        (["-d", "overlay", "--ipam-driver", "mine", "n"], "IPAM driver mine is not supported"),
        (["-d", "overlay", "--subnet", "10.10.10.0/30", "n"], "the prefix must be 1 to 29"),
        (["-d", "overlay", "--subnet", "10.1.0.0/24", "--gateway", "10.1.1.1", "n"], "10.1.1.1"),
        (
            ["-d", "overlay", "--subnet", "10.1.0.0/24", "--ip-range", "10.2.0.0/25", "n"],
            "10.2.0.0/25",
        ),
        (["-d", "overlay", "host"], "host is a pre-defined network and cannot be created"),
    ],
)
def test_networks_that_are_refused(manager: Daemon, arguments: list[str], text: str) -> None:
    before = manager.ok("network", "ls", "-q")
    assert text in manager.refused("network", "create", *arguments)
    assert manager.ok("network", "ls", "-q") == before


# --- services


def test_a_service_from_creation_to_removal(manager: Daemon) -> None:
    manager.ok("network", "create", "-d", "overlay", "n")
    created = manager.ok("service", "create", "--name", "web", "--replicas", "2", "--network", "n", "-p", "8080:80",
                         "--update-monitor", "10ms", "--env", "A=b", IMAGE)  # fmt: skip
    assert "converged" in created
    row = json.loads(manager.ok("service", "ls", "--format", "json"))
    assert (row["Name"], row["Replicas"], row["Ports"]) == ("web", "2/2", "*:8080->80/tcp")
    rows = [
        json.loads(line)
        for line in manager.ok("service", "ps", "web", "--format", "json").splitlines()
    ]
    assert sorted(row["Name"] for row in rows) == ["web.1", "web.2"]
    assert all(row["CurrentState"].startswith("Running") and row["Node"] == "node1" for row in rows)
    pretty = manager.ok("service", "inspect", "--pretty", "web")
    assert "Networks: n" in pretty
    assert "PublishedPort = 8080" in pretty
    task = json.loads(manager.ok("inspect", rows[0]["ID"]))[0]
    assert [a["Network"]["Spec"]["Name"] for a in task["NetworksAttachments"]] == ["ingress", "n"]
    assert "service web scaled" in "service " + manager.ok("service", "scale", "-d", "web=1")
    manager.ok(
        "service",
        "update",
        "-d",
        "--env-add",
        "C=d",
        "--label-add",
        "x=y",
        "--network-rm",
        "n",
        "--force",
        "web",
    )
    spec = json.loads(manager.ok("service", "inspect", "web"))[0]["Spec"]
    # The docker command gathers the variables in a Go map: their order is its own, and differs from
    # run to run.
    assert sorted(spec["TaskTemplate"]["ContainerSpec"]["Env"]) == ["A=b", "C=d"]
    assert (spec["Labels"], spec["TaskTemplate"]["ForceUpdate"]) == ({"x": "y"}, 1)
    manager.ok("service", "rollback", "-d", "web")
    assert json.loads(manager.ok("service", "inspect", "web"))[0]["Spec"]["TaskTemplate"][
        "ContainerSpec"
    ]["Env"] == ["A=b"]
    assert manager.ok("service", "rm", "web") == "web\n"
    manager.cleared()
    assert manager.ok("ps", "-aq") == ""
    assert "no such service: web" in manager.refused("service", "inspect", "web")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--name", "in valid"], "name must be valid as a DNS name component"),
        (["--network", "nowhere"], "network nowhere not found"),
        (
            ["--network", "bridge"],
            "the network bridge of each host is not supported by Weft for services",
        ),
        (["--network", "ingress"], "Service cannot be explicitly attached to the ingress network"),
        (
            ["--health-cmd", "true", "--health-interval", "1us"],
            "ContainerSpec: Interval in HealthConfig cannot be less than 1ms",
        ),
        (["--mount", "type=npipe,source=v,target=/v"], "mounts of type npipe are not supported"),
        (
            ["--endpoint-mode", "dnsrr", "-p", "80:80"],
            "port published with ingress mode can't be used with dnsrr mode",
        ),
        (["-p", "2377:80"], "cannot publish port 2377/tcp: managers listen there for nodes"),
        (
            ["-p", "4789:80/udp"],
            "cannot publish port 4789/udp: hosts listen there for each other's packets",
        ),
        (["--constraint", "node.role"], "constraint expected one operator from ==, !="),
        (["--reserve-cpu", "0.0001"], "Must be at least 0.001"),
        (["--log-driver", "gelf"], "gelf"),
        (["--label", "weft.privileged=yes"], "Labels: weft.privileged=yes: must be true or false"),
        (
            ["--label", "weft.rebalance=all"],
            "Labels: weft.rebalance=all: must be true, false, or a number from 1 to 1000",
        ),
        (
            ["--label", "weft.rebalance=true", "--mode", "global"],
            "a service of mode global cannot be rebalanced",
        ),
        (
            ["--label", "weft.affinity=client-address", "--endpoint-mode", "dnsrr"],
            "Labels: weft.affinity=client-address: with endpoint mode dnsrr callers choose a task",
        ),
        (
            ["--label", "weft.publish-address=127.0.0.1", "--network", "host"],
            "Labels: weft.publish-address=127.0.0.1: the service publishes no port",
        ),
        (
            ["--label", "weft.publish-address.80=127.0.0.1", "-p", "8080:80"],
            "Labels: weft.publish-address.80=127.0.0.1: the service publishes no port 80/tcp",
        ),
        (
            [
                "--label",
                "weft.publish-address=127.0.0.1",
                "--network",
                "host",
                "-p",
                "published=80,target=80,mode=host",
            ],
            "a program on the network host chooses itself where it listens",
        ),
        (
            ["--label", "weft.affinity=client-address", "--network", "host"],
            "callers of a service on the network host choose a host themselves",
        ),
        (
            ["--label", "weft.address.lan=10.1.2.3"],
            "Labels: weft.address.lan=10.1.2.3: the service is not on a network lan, on no network",
        ),
    ],
)
def test_services_that_are_refused(manager: Daemon, arguments: list[str], text: str) -> None:
    assert text in manager.refused(
        "service", "create", "-d", "--no-resolve-image", *arguments, IMAGE
    )
    assert manager.ok("service", "ls", "-q") == ""


def test_a_service_gets_the_addresses_of_its_labels(manager: Daemon) -> None:
    manager.ok("network", "create", "-d", "overlay", "--subnet", "10.31.0.0/24", "n")
    labels = ("weft.address.n=10.31.0.50", "weft.task-addresses.n=10.31.0.60, 10.31.0.61")
    manager.ok("service", "create", "--name", "web", "--network", "n", "--replicas", "2",
               *(word for label in labels for word in ("--label", label)),
               "--update-monitor", "10ms", IMAGE)  # fmt: skip
    endpoint = json.loads(manager.ok("service", "inspect", "web"))[0]["Endpoint"]
    assert [vip["Addr"] for vip in endpoint["VirtualIPs"]] == ["10.31.0.50/24"]
    held = {
        task["Slot"]: task["NetworksAttachments"][0]["Addresses"]
        for id in manager.ok("service", "ps", "-q", "web").split()
        for task in json.loads(manager.ok("inspect", id))
    }
    assert held == {1: ["10.31.0.60/24"], 2: ["10.31.0.61/24"]}
    assert "2 addresses are not enough for 3 replicas" in manager.refused(
        "service", "scale", "-d", "web=3"
    )
    assert "service web has 10.31.0.50 on network n" in manager.refused(
        "service", "create", "-d", "--network", "n", "--label", labels[0], IMAGE
    )
    manager.ok("service", "update", "--label-add", "weft.address.n=10.31.0.51", "web")
    endpoint = json.loads(manager.ok("service", "inspect", "web"))[0]["Endpoint"]
    assert [vip["Addr"] for vip in endpoint["VirtualIPs"]] == ["10.31.0.51/24"]


def test_a_port_is_published_at_the_address_of_its_label(manager: Daemon) -> None:
    manager.container("-p", "published=8081,target=80,mode=host", "-p", "8080:80",
                      "--label", "weft.publish-address=127.0.0.1",
                      "--label", "weft.publish-address.8080/tcp=127.0.0.2")  # fmt: skip
    assert "127.0.0.1:8081->80/tcp" in manager.ok("ps", "--format", "{{.Ports}}")
    bindings = "{{json .HostConfig.PortBindings}}"
    assert json.loads(manager.ok("inspect", "-f", bindings, manager.ok("ps", "-q").strip())) == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8081"}]
    }
    shown = json.loads(manager.ok("service", "inspect", "web"))[0]["Endpoint"]["Ports"]
    assert {port["PublishedPort"] for port in shown} == {8080, 8081}
    other = ("service", "create", "-d", "--no-resolve-image", "-p", "8080:80", "--label")
    assert "port '8080' is already in use by service 'web'" in manager.refused(
        *other, "weft.publish-address=127.0.0.2", IMAGE
    )
    manager.ok(*other, "weft.publish-address=127.0.0.3", IMAGE)


def test_services_get_names_and_ports_are_not_shared(manager: Daemon) -> None:
    id = manager.ok(
        "service", "create", "-d", "-q", "--no-resolve-image", "-p", "8080:80", IMAGE
    ).strip()
    assert re.fullmatch(
        r"[a-z]+_[a-z]+\d*", manager.ok("service", "inspect", "-f", "{{.Spec.Name}}", id).strip()
    )
    assert "port '8080' is already in use" in manager.refused(
        "service", "create", "-d", "--no-resolve-image", "-p", "8080:80", IMAGE
    )


def test_the_endpoint_mode_may_change_and_tasks_stay(manager: Daemon) -> None:
    """A service gets or gives back its virtual addresses; its tasks need not be replaced."""
    manager.ok("network", "create", "-d", "overlay", "n")
    manager.ok("service", "create", "-d", "--name", "web", "--network", "n", IMAGE, "sleep", "60")
    eventually(lambda: manager.ok("service", "ps", "-q", "-f", "desired-state=running", "web"))
    tasks = manager.ok("service", "ps", "-q", "web")

    def endpoint() -> tuple[str, int]:
        shown = json.loads(manager.ok("service", "inspect", "web"))[0]["Endpoint"]
        return shown["Spec"]["Mode"], len(shown.get("VirtualIPs", ()))

    eventually(lambda: endpoint() == ("vip", 1))
    manager.ok("service", "update", "-d", "--endpoint-mode", "dnsrr", "web")
    eventually(lambda: endpoint() == ("dnsrr", 0))
    manager.ok("service", "update", "-d", "--endpoint-mode", "vip", "web")
    eventually(lambda: endpoint() == ("vip", 1))
    assert manager.ok("service", "ps", "-q", "web") == tasks
    manager.ok("service", "update", "-d", "--publish-add", "8080:80", "web")
    assert "can't be used with dnsrr mode" in manager.refused(
        "service", "update", "-d", "--endpoint-mode", "dnsrr", "web"
    )


def test_a_service_may_use_the_network_of_the_host(manager: Daemon) -> None:
    id = manager.container("--network", "host")
    assert manager.ok("inspect", "-f", "{{.HostConfig.NetworkMode}}", id) == "host\n"
    manager.ok("service", "update", "-d", "--env-add", "A=b", "web")
    assert "Networks: host" in manager.ok("service", "inspect", "--pretty", "web")


def test_a_spec_comes_back_as_it_was_given(manager: Daemon) -> None:
    """The docker command asks for the defaults, and starts an update from what was given; docker-py
    says which it wants."""
    client = docker.DockerClient(f"unix://{manager.path}", version="1.51")
    policy = RestartPolicy("on-failure", window=0)
    service = client.services.create(IMAGE, name="web", restart_policy=policy)
    given = {"Condition": "on-failure", "Delay": 0, "MaxAttempts": 0, "Window": 0}
    left_out = {"Resources", "Placement", "LogDriver"}

    def spec(defaults: bool) -> dict[str, Any]:
        found = client.api.inspect_service(service.id, insert_defaults=defaults)
        return dict(found["Spec"])

    before = spec(False)
    assert before["TaskTemplate"]["RestartPolicy"] == given
    assert not left_out & before["TaskTemplate"].keys()
    assert not {"UpdateConfig", "RollbackConfig", "EndpointSpec"} & before.keys()
    [listed] = client.api.services()
    assert listed["Spec"] == before
    assert spec(True)["UpdateConfig"]["Order"] == "stop-first"
    assert json.loads(manager.ok("service", "inspect", "web"))[0]["Spec"] == spec(True)
    assert "On failure:" in manager.ok("service", "inspect", "--pretty", "web")
    tasks = {task["ID"] for task in service.tasks()}
    manager.ok("service", "update", "-d", "--label-add", "a=b", "web")
    assert {task["ID"] for task in service.tasks()} == tasks
    after = spec(False)
    assert after.pop("Labels") == {"a": "b"}
    assert {"Labels": {}, **after} == before
    manager.ok("service", "update", "-d", "--update-parallelism", "2", "web")
    assert spec(False)["UpdateConfig"]["Parallelism"] == 2
    assert "RollbackConfig" not in spec(False)
    client.close()
