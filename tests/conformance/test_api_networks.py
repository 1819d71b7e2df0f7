"""Networks of one node as the stock docker command sees them: outside a swarm, on a manager, and on
a worker."""

import json
import re
import shutil
from ipaddress import IPv6Network
from typing import Any

import pytest

from tests.conformance.client import Daemon
from tests.support.fake_images import IMAGE
from tests.support.local_node import container_id
from weft.model.endpoint_settings import EndpointSettings
from weft.model.service import ContainerSpec

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")


def names(daemon: Daemon, *filters: str) -> list[str]:
    asked = [word for each in filters for word in ("--filter", each)]
    return daemon.ok("network", "ls", "--format", "{{.Name}}", *asked).split()


def test_a_network_from_creation_to_removal(daemon: Daemon) -> None:
    assert names(daemon) == ["bridge", "host", "none"]
    id = daemon.ok(
        "network", "create", "--subnet", "10.8.0.0/16", "--ip-range", "10.8.5.0/24",
        "--aux-address", "router=10.8.5.0", "--label", "a=b", "--internal",
        "-o", "com.docker.network.bridge.name=br-mine", "back",
    ).strip()  # fmt: skip
    assert re.fullmatch(r"[0-9a-f]{64}", id)
    seen = json.loads(daemon.ok("network", "inspect", "back"))[0]
    assert (seen["Driver"], seen["Scope"], seen["Internal"]) == ("bridge", "local", True)
    assert seen["IPAM"]["Config"] == [
        {
            "Subnet": "10.8.0.0/16",
            "IPRange": "10.8.5.0/24",
            "Gateway": "10.8.0.1",
            "AuxiliaryAddresses": {"router": "10.8.5.0"},
        }
    ]
    assert seen["Options"] == {"com.docker.network.bridge.name": "br-mine"}
    assert seen["Labels"] == {"a": "b"}
    daemon.ok("network", "create", "front")
    front = json.loads(daemon.ok("network", "inspect", "front"))[0]
    assert front["IPAM"]["Config"] == [{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}]
    assert names(daemon, "driver=bridge", "type=custom") == ["back", "front"]
    assert names(daemon, "dangling=true", "label=a") == ["back"]
    assert names(daemon, "scope=swarm") == []
    place = daemon.call(
        daemon.node.engine.local.connect(
            container_id("web"),
            "web",
            ContainerSpec(image="demo"),
            [EndpointSettings(network="back", mac="02:00:00:00:00:07", aliases=("db",))],
            (),
        )
    )
    seen = json.loads(daemon.ok("network", "inspect", "back"))[0]["Containers"]
    assert seen[place.container]["IPv4Address"] == "10.8.5.1/16"
    assert seen[place.container]["MacAddress"] == "02:00:00:00:00:07"
    assert 'network back has active endpoints (name:"web"' in daemon.refused(
        "network", "rm", "back"
    )
    assert daemon.ok("network", "prune", "-f") == "Deleted Networks:\nfront\n\n"
    daemon.restart()
    assert names(daemon) == ["back", "bridge", "host", "none"]
    assert daemon.ok("network", "rm", id[:9]) == f"{id[:9]}\n"
    assert "network back not found" in daemon.refused("network", "inspect", "back")


def test_networks_of_a_node_and_of_its_swarm(manager: Daemon, worker: Daemon) -> None:
    for node in (manager, worker):
        node.ok("network", "create", "own")
        seen = json.loads(node.ok("network", "inspect", "own"))[0]
        assert (seen["Scope"], seen["Driver"]) == ("local", "bridge")
        # docker_gwbridge has the first one.
        assert seen["IPAM"]["Config"][0]["Subnet"] == "172.19.0.0/16"
    manager.ok("network", "create", "-d", "overlay", "wide")
    assert names(manager, "scope=swarm") == ["ingress", "wide"]
    assert "network with name own already exists" in manager.refused(
        "network", "create", "-d", "overlay", "own"
    )
    assert "network with name wide already exists" in manager.refused("network", "create", "wide")
    assert "not a swarm manager" in worker.refused("network", "create", "-d", "overlay", "x")
    manager.ok("network", "prune", "-f")
    assert "own" in names(worker)
    worker.ok("swarm", "leave")
    assert names(worker) == ["bridge", "host", "none", "own"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["bridge"], "bridge is a pre-defined network and cannot be created"),
        (["-d", "host", "n"], 'only one instance of "host" network is allowed'),
        (["-d", "macvlan", "n"], "driver macvlan is not supported"),
        (["-d", "ipvlan", "n"], "driver ipvlan is not supported"),
        (["--ipv6", "--ipv4=false", "n"], "a network without IPv4 (EnableIPv4) is not supported"),
        (["--subnet", "fd00::/64", "n"], "of a network without IPv6 (EnableIPv6) is not supported"),
        (["--ipv6", "--subnet", "fd00::1/64", "n"], "it should be fd00::/64"),
        (["--scope", "swarm", "n"], "scope swarm of driver bridge is not supported"),
        (["--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24", "n"], "multiple subnets"),
        (["--subnet", "172.17.8.0/24", "n"], "Pool overlaps with other one on this address space"),
        (["--subnet", "10.1.0.0/31", "n"], "has no room for containers"),
        (["-o", "com.docker.network.bridge.name=docker0", "n"], "'docker0' cannot be the name of"),
        (["-o", "com.docker.network.bridge.enable_icc=maybe", "n"], "invalid syntax"),
        (["-o", "com.docker.network.bridge.gateway_mode_ipv4=routed", "n"], "is not supported"),
        (["-o", "parent=eth0", "n"], "option parent=eth0 is not supported"),
    ],
)
def test_what_no_network_can_be(daemon: Daemon, arguments: list[str], text: str) -> None:
    assert text in daemon.refused("network", "create", *arguments)
    assert names(daemon) == ["bridge", "host", "none"]


def settings(daemon: Daemon, name: str) -> dict[str, Any]:
    seen = json.loads(daemon.ok("inspect", name))[0]["NetworkSettings"]
    assert isinstance(seen, dict)
    return seen


def test_containers_join_and_leave_networks(daemon: Daemon) -> None:
    daemon.ok("network", "create", "a b.c_")
    daemon.ok("network", "rm", "a b.c_")
    daemon.ok("network", "create", "back")
    daemon.ok("network", "create", "--subnet", "10.8.0.0/24", "front")
    daemon.ok("run", "-d", "--name", "web", IMAGE, "sleep", "1000")
    seen = settings(daemon, "web")
    assert (seen["IPAddress"], seen["Gateway"]) == ("172.17.0.2", "172.17.0.1")
    daemon.ok("network", "connect", "--ip", "10.8.0.9", "--alias", "www", "front", "web")
    assert "already exists in network front" in daemon.refused("network", "connect", "front", "web")
    front = settings(daemon, "web")["Networks"]["front"]
    assert (front["IPAddress"], front["Gateway"], front["Aliases"], front["IPAMConfig"]) == (
        "10.8.0.9", "10.8.0.1", ["www"], {"IPv4Address": "10.8.0.9"},
    )  # fmt: skip
    daemon.ok("network", "disconnect", "bridge", "web")
    assert list(settings(daemon, "web")["Networks"]) == ["front"]
    assert settings(daemon, "web")["IPAddress"] == ""
    daemon.ok("stop", "-t", "1", "web")
    daemon.ok("network", "connect", "back", "web")
    daemon.ok("network", "disconnect", "front", "web")
    for force in ([], ["-f"]):
        assert "is not connected to network front" in daemon.refused(
            "network", "disconnect", *force, "front", "web"
        )
    daemon.ok("start", "web")
    back = settings(daemon, "web")["Networks"]
    assert [(name, place["IPAddress"]) for name, place in back.items()] == [("back", "172.18.0.2")]
    daemon.ok("run", "-d", "--name", "alone", "--network", "none", IMAGE, "sleep", "1000")
    assert "the network mode none" in daemon.refused("network", "connect", "back", "alone")
    daemon.ok("run", "-d", "--name", "mode", "--network", "front", IMAGE, "sleep", "1000")
    daemon.ok("network", "disconnect", "front", "mode")
    assert settings(daemon, "mode")["Networks"] == {}
    assert "is not connected" in daemon.refused("network", "disconnect", "-f", "front", "mode")
    options = ("--ip", "10.8.0.7", "--driver-opt", "org.example.x=y")
    daemon.ok("network", "connect", *options, "front", "mode")
    front = settings(daemon, "mode")["Networks"]["front"]
    assert (front["IPAddress"], front["DriverOpts"]) == ("10.8.0.7", {"org.example.x": "y"})
    daemon.ok("rm", "-f", "web", "alone", "mode")
    assert daemon.ok("network", "prune", "-f").split() == ["Deleted", "Networks:", "back", "front"]


def test_ipv6_on_a_node_s_networks(daemon: Daemon) -> None:
    daemon.ok("network", "create", "--ipv6", "six")
    six = json.loads(daemon.ok("network", "inspect", "six"))[0]
    assert (six["EnableIPv4"], six["EnableIPv6"]) == (True, True)
    own = IPv6Network(six["IPAM"]["Config"][1]["Subnet"])
    assert own.subnet_of(IPv6Network("fd00::/8"))
    assert six["IPAM"]["Config"][1] == {"Subnet": str(own), "Gateway": str(own[1])}
    daemon.ok(
        "network", "create", "--ipv6", "--subnet", "fd00:a::/64", "--ip-range", "fd00:a::100/120",
        "--aux-address", "x=fd00:a::100", "named",
    )  # fmt: skip
    taken = daemon.refused("network", "create", "--ipv6", "--subnet", "fd00:a::/48", "n")
    assert "Pool overlaps with other one on this address space" in taken
    daemon.ok(
        "run", "-d", "--name", "web", "--network", "six", "-p", "8080:80", IMAGE, "sleep", "9"
    )
    at = settings(daemon, "web")
    both = [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]
    assert at["Ports"] == {"80/tcp": both}
    shown = daemon.ok("ps", "--format", "{{.Ports}}").strip()
    assert shown == "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
    place = at["Networks"]["six"]
    assert (place["GlobalIPv6Address"], place["GlobalIPv6PrefixLen"], place["IPv6Gateway"]) == (
        str(own[2]), 64, str(own[1]),
    )  # fmt: skip
    daemon.ok("network", "connect", "named", "web")
    daemon.ok(
        "run", "-d", "--name", "db", "--network", "named", "--ip6", "fd00:a::7", IMAGE, "sleep", "9"
    )
    found = json.loads(daemon.ok("network", "inspect", "named"))[0]["Containers"].values()
    assert {each["Name"]: each["IPv6Address"] for each in found} == {
        "web": "fd00:a::101/64", "db": "fd00:a::7/64",
    }  # fmt: skip
    named = settings(daemon, "db")["Networks"]["named"]
    assert named["IPAMConfig"] == {"IPv6Address": "fd00:a::7"}
    for network, address, text in (
        ("named", "fd00:b::7", "no configured subnet or ip-range contain the IP address fd00:b::7"),
        ("named", "nonsense", "invalid IPv6 address: nonsense"),
        ("named", "fd00:a::7", "Address already in use"),
        ("six", str(own[9]), "only when connecting to networks with user configured subnets"),
        ("bridge", "fd00:a::8", "supported on user defined networks only"),
    ):
        asked = ("run", "-d", "--network", network, "--ip6", address, IMAGE, "sleep", "9")
        assert text in daemon.refused(*asked)
    refused = daemon.refused(
        "run", "-d", "--network", "six", "-p", "[::1]:81:80", IMAGE, "sleep", "9"
    )
    assert "the address ::1 of port 80/tcp is not supported" in refused
    refused = daemon.refused("run", "-d", "-p", "[::]:81:80", IMAGE, "sleep", "9")
    assert "the container has no network with IPv6 that leads outside" in refused


def test_a_task_is_on_the_networks_of_its_service_only(manager: Daemon) -> None:
    manager.ok("network", "create", "own")
    id = manager.container()
    assert "it is a task's" in manager.refused("network", "connect", "own", id)
    assert "is not connected to network own" in manager.refused("network", "disconnect", "own", id)
