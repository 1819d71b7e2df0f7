"""Networks, containers and their moments: what is printed has the shape that a real swarm
printed."""

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.api.schema.common import encode, human_duration, parse_moment, rfc3339
from weft.api.schema.container import ContainerContext, container_json, container_summary_json
from weft.api.schema.decoding import decode
from weft.api.schema.network import (
    NAMES_STARTING,
    VNIS,
    NetworkWire,
    attached_network_json,
    local_network_json,
    network_json,
    residents_json,
    spec_from,
)
from weft.api.schema.system import info_json
from weft.errors import InvalidArgument, Unsupported, WeftError
from weft.model.container import (
    Confinement,
    Container,
    ContainerConfig,
    ContainerState,
    ImageConfig,
)
from weft.model.device import Device
from weft.model.host import HostInfo
from weft.model.ids import ContainerId, NetworkId
from weft.model.local_network import (
    LocalEndpoint,
    LocalNetwork,
    PeerView,
    ServiceTaskView,
    ServiceView,
)
from weft.model.network import Network, NetworkSpec, Pool, Segment
from weft.model.privileges import Privileges
from weft.model.service import ContainerSpec, PublishedPort, Resources

LABELS = ("ProcessLabel", "MountLabel", "AppArmorProfile")
RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text())[0]


def local_from(seen: Any) -> LocalNetwork:
    """The network that a recorded inspection shows."""
    endpoints = tuple(
        LocalEndpoint(
            key=key,
            name=e["Name"],
            endpoint_id=e["EndpointID"],
            address=IPv4Interface(e["IPv4Address"]),
        )
        for key, e in seen["Containers"].items()
    )
    services = tuple(
        ServiceView(
            name,
            s["VIP"],
            tuple(s["Ports"]),
            tuple(
                ServiceTaskView(t["Name"], t["EndpointID"], t["EndpointIP"], t["Info"]["Host IP"])
                for t in s["Tasks"]
            ),
        )
        for name, s in seen.get("Services", {}).items()
    )
    return LocalNetwork(
        id=seen["Id"],
        name=seen["Name"],
        driver=seen["Driver"],
        scope=seen["Scope"],
        created_at=parse_moment(seen["Created"], "Created"),
        attachable=seen["Attachable"],
        ingress=seen["Ingress"],
        pools=tuple((IPv4Network(c["Subnet"]), c["Gateway"]) for c in seen["IPAM"]["Config"]),
        options=seen["Options"],
        endpoints=endpoints,
        peers=tuple(PeerView(p["Name"], p["IP"]) for p in seen["Peers"]),
        services=services,
    )


@pytest.mark.parametrize(
    "name", ["network-inspect-demo-net-verbose-node1.json", "network-inspect-demo-net-node2.json"]
)
def test_an_inspected_overlay_looks_as_recorded(name: str) -> None:
    want = recorded(name)
    network = local_from(want)
    got = json.loads(
        encode(local_network_json(network) | residents_json(network, verbose="Services" in want))
    )
    for body in (want, got):
        for service in body.get("Services", {}).values():
            del service["LocalLBIndex"]  # the number of a load balancer that Weft does not use
        body["Created"] = parse_moment(body["Created"], "Created") // 10**9
    assert got.pop("EnableIPv4") is True  # came with a later version than the recorded one
    assert got == want


def test_an_inspected_container_looks_as_recorded() -> None:
    want = recorded("container-inspect-node1.json")
    settings = want["NetworkSettings"]
    places = {
        name: (
            LocalNetwork(id=n["NetworkID"], name=name, driver="overlay"),
            LocalEndpoint(
                key=want["Id"],
                name="",
                endpoint_id=n["EndpointID"],
                address=IPv4Interface(f"{n['IPAddress']}/{n['IPPrefixLen']}"),
            ),
        )
        for name, n in settings["Networks"].items()
    }
    container = Container(
        config=ContainerConfig(
            id=ContainerId(want["Id"]),
            name=want["Name"][1:],
            spec=ContainerSpec(image=want["Config"]["Image"], init=False),
            hostname=want["Config"]["Hostname"],
            labels=want["Config"]["Labels"],
            namespace="/run/docker/netns/861f86ec6ca2",
            sandbox_id=settings["SandboxID"],
        ),
        image=want["Image"],
        args=("/usr/sbin/nginx",),
        state=ContainerState.RUNNING,
        pid=256,
        created_at=parse_moment(want["Created"], ""),
        started_at=parse_moment(want["State"]["StartedAt"], ""),
        log_path=want["LogPath"],
        confinement=Confinement(
            masked_paths=tuple(want["HostConfig"]["MaskedPaths"]),
            cgroup_namespace=True,
            read_only_paths=tuple(want["HostConfig"]["ReadonlyPaths"]),
        ),
    )
    image = ImageConfig(cmd=("/usr/sbin/nginx",), exposed_ports=((80, "tcp"),))
    got = json.loads(
        encode(container_json(container, ContainerContext(image=image, networks=places)))
    )
    for place in settings["Networks"].values():
        place["GwPriority"] = 0  # younger than the recording
    assert got["NetworkSettings"] == settings
    assert got["Config"] == want["Config"]
    assert got.keys() == want.keys()
    assert got["State"].keys() == want["State"].keys()
    assert got["HostConfig"].pop("Sysctls") is None
    assert got["HostConfig"] == want["HostConfig"]
    assert [got[name] for name in LABELS] == [want[name] for name in LABELS] == ["", "", ""]


@pytest.mark.parametrize(("version", "killing"), [("1", False), ("2", None)])
def test_an_inspected_container_shows_what_its_host_made_of_its_limits(
    version: str, killing: bool | None
) -> None:
    config = ContainerConfig(
        id=ContainerId("c" * 64),
        name="web",
        spec=ContainerSpec(image="web"),
        hostname="h",
        namespace=None,
        limits=Resources(memory=64 << 20),
    )
    container = Container(
        config=config,
        image="i",
        args=("web",),
        memory_swap=128 << 20,
        confinement=Confinement(cgroup_namespace=version == "2"),
    )
    shown = container_json(container, ContainerContext())["HostConfig"]
    names = ("Memory", "MemorySwap", "OomKillDisable", "Init")
    assert [shown[name] for name in names] == [64 << 20, 128 << 20, killing, None]


def test_a_network_shows_of_its_subnets_what_was_asked_for() -> None:
    subnet, other = IPv4Network("10.1.0.0/24"), IPv4Network("10.2.0.0/24")
    pool = Pool(subnet, None, IPv4Network("10.1.0.128/25"), {"router": IPv4Address("10.1.0.9")})
    segments = tuple(
        Segment(net, net.network_address + 1, 4097 + i) for i, net in enumerate((subnet, other))
    )
    network = Network(
        id=NetworkId("n"), spec=NetworkSpec(name="x", pools=(pool, Pool(other))), segments=segments
    )
    first, second = network_json(network)["IPAM"]["Config"]
    assert first == {
        "Subnet": "10.1.0.0/24", "IPRange": "10.1.0.128/25", "Gateway": "10.1.0.1", "AuxiliaryAddresses": {"router": "10.1.0.9"},
    }  # fmt: skip
    assert second == {"Subnet": "10.2.0.0/24", "Gateway": "10.2.0.1"}
    configs = attached_network_json(network)["IPAMOptions"]["Configs"]
    assert [config.get("Range") for config in configs] == ["10.1.0.128/25", None]


def test_a_container_shows_the_ports_of_its_host_that_lead_to_it() -> None:
    """As Docker, given the same service, does it."""
    config = ContainerConfig(
        id=ContainerId("c" * 64),
        name="n",
        spec=ContainerSpec(image="i"),
        hostname="h",
        namespace="/n",
        sandbox_id="s",
        ports=(PublishedPort(80, 8083, mode="host"), PublishedPort(53, 32768, "udp", "host")),
    )
    running = Container(config=config, image="i", args=("x",), state=ContainerState.RUNNING)
    environment = ContainerContext(
        image=ImageConfig(exposed_ports=((80, "tcp"), (443, "tcp")), volumes=("/v",))
    )
    got = container_json(running, environment)
    assert got["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8083"}], "443/tcp": None,
        "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "32768"}],
    }  # fmt: skip
    assert got["HostConfig"]["PortBindings"]["80/tcp"] == [{"HostIp": "", "HostPort": "8083"}]
    assert set(got["Config"]["ExposedPorts"]) == {"80/tcp", "443/tcp", "53/udp"}
    assert got["Config"]["Volumes"] == {"/v": {}}
    assert container_summary_json(running, environment, 0)["Ports"] == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8083, "Type": "tcp"},
        {"IP": "0.0.0.0", "PrivatePort": 53, "PublicPort": 32768, "Type": "udp"},
        {"PrivatePort": 443, "Type": "tcp"},
    ]
    ended = msgspec.structs.replace(running, state=ContainerState.EXITED)
    assert container_json(ended, environment)["NetworkSettings"]["Ports"] == {}


def test_an_inspected_container_shows_what_confines_it() -> None:
    """And nothing else: what is shown is its own record, not what a container of today would
    get."""
    config = ContainerConfig(
        id=ContainerId("c" * 64),
        name="n",
        spec=ContainerSpec(image="i"),
        hostname="h",
        namespace=None,
    )
    bare = Container(config=config, image="i", args=("x",))
    confined = msgspec.structs.replace(
        bare,
        confinement=Confinement(masked_paths=("/proc/kcore",), apparmor_profile="docker-default"),
    )
    got = container_json(confined, ContainerContext())
    assert got["AppArmorProfile"] == "docker-default"
    assert got["HostConfig"]["MaskedPaths"] == ["/proc/kcore"]
    assert (got["HostConfig"]["SecurityOpt"], got["HostConfig"]["CgroupnsMode"]) == (None, "host")
    got = container_json(bare, ContainerContext())
    assert (got["AppArmorProfile"], got["HostConfig"]["MaskedPaths"]) == ("", [])
    assert (got["HostConfig"]["Privileged"], got["HostConfig"]["Devices"]) == (False, None)


def test_an_inspected_container_shows_its_devices_and_privileges() -> None:
    spec = ContainerSpec(
        image="i",
        devices=(Device(source="/dev/kvm", target="/dev/mine", access="rw"),),
        privileges=Privileges(privileged=True),
    )
    config = ContainerConfig(
        id=ContainerId("c" * 64), name="n", spec=spec, hostname="h", namespace=None
    )
    got = container_json(Container(config=config, image="i", args=("x",)), ContainerContext())
    assert got["HostConfig"] | {
        "Privileged": True, "MaskedPaths": None, "ReadonlyPaths": None,
        "SecurityOpt": ["label=disable"],
        "Devices": [{
            "PathOnHost": "/dev/kvm", "PathInContainer": "/dev/mine", "CgroupPermissions": "rw",
        }],
    } == got["HostConfig"]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"apparmor": True, "seccomp": True, "cgroup_version": "2"},
         ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"]),
        ({"seccomp": True, "cgroup_version": "1"}, ["name=seccomp,profile=builtin"]),
        ({"cgroup_version": "1"}, []),
    ],
)  # fmt: skip
def test_security_options_are_what_is_in_force(fields: dict[str, Any], options: list[str]) -> None:
    info = HostInfo(
        hostname="h",
        engine_id="e",
        kernel="6.1",
        operating_system="o",
        os_version="1",
        architecture="x86_64",
        cpus=1,
        memory=1,
        data_root="/d",
        runtime="runc 1",
        conmon="2",
        version="0",
        started_at=0,
        **fields,
    )
    assert info_json(info, {}, {}, 0, 0)["SecurityOptions"] == [
        *options,
        "name=overlay-encryption,profile=none",
    ]


def read(**fields: Any) -> NetworkSpec:
    return spec_from(decode(encode({"Name": "n", "Driver": "overlay", **fields}), NetworkWire))


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("False", False)])
def test_a_network_may_show_starting_tasks(text: str, value: bool) -> None:
    assert read(Options={NAMES_STARTING: text}).names_starting == value
    assert not read().names_starting


def test_a_request_with_everything() -> None:
    config = {
        "Subnet": "10.1.0.0/16",
        "Gateway": "10.1.0.9",
        "IPRange": "10.1.2.0/24",
        "AuxiliaryAddresses": {"a": "10.1.2.1"},
    }
    options = {VNIS: "5000", "com.docker.network.driver.mtu": "1400"}
    spec = read(
        IPAM={"Driver": "default", "Config": [config]},
        Options=options,
        Internal=True,
        Labels={"x": "y"},
    )
    pool = Pool(
        IPv4Network("10.1.0.0/16"),
        IPv4Address("10.1.0.9"),
        IPv4Network("10.1.2.0/24"),
        {"a": IPv4Address("10.1.2.1")},
    )
    assert spec == NetworkSpec(
        name="n",
        labels={"x": "y"},
        options=options,
        pools=(pool,),
        vnis=(5000,),
        mtu=1400,
        internal=True,
    )


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.1/24"}]}}, InvalidArgument, "has host bits set"),
        (
            {"IPAM": {"Config": [{"Subnet": "nonsense"}]}},
            InvalidArgument,
            "IPAM.Config[0].Subnet: 'nonsense'",
        ),
        ({"IPAM": {"Config": [{"Subnet": "fd00::/64"}]}}, Unsupported, "IPv6 subnet"),
        (
            {"IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "Gateway": "x"}]}},
            InvalidArgument,
            "IPAM.Config[0].Gateway: 'x'",
        ),
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.0"}]}}, InvalidArgument, "it has no prefix"),
        ({"IPAM": {"Config": [{"Gateway": "10.0.0.1"}]}}, InvalidArgument, "needs a subnet"),
        ({"Options": {VNIS: "4097,x"}}, InvalidArgument, "4097,x"),
        ({"Options": {VNIS: str(2**24)}}, InvalidArgument, str(2**24)),
        ({"Options": {VNIS: "4097," + "9" * 5000}}, InvalidArgument, "is not a list of numbers"),
        (
            {"Options": {"com.docker.network.driver.mtu": "9" * 5000}},
            InvalidArgument,
            "as MTU: not a number",
        ),
        (
            {"Options": {"com.docker.network.driver.mtu": "1"}},
            InvalidArgument,
            "invalid MTU value: 1",
        ),
        ({"Options": {"dsr": ""}}, Unsupported, "option dsr is not supported"),
        ({"EnableIPv4": False}, InvalidArgument, "IPv4 cannot be disabled"),
        ({"ConfigOnly": True}, Unsupported, "ConfigOnly"),
        (
            {"Options": {"encrypted": "false"}},
            InvalidArgument,
            "'false' would encrypt it all the same",
        ),
        ({"Options": {"encrypted": "No"}}, InvalidArgument, "leave it out"),
        (
            {"Options": {NAMES_STARTING: "maybe"}},
            InvalidArgument,
            "com.weft.network.names.starting: 'maybe' is neither true nor false",
        ),
        (
            {"Options": {NAMES_STARTING: "true"}, "Ingress": True},
            InvalidArgument,
            "an ingress network has no names",
        ),
        ({"Labels": {"a": 1}}, InvalidArgument, "$.Labels"),
    ],
)
def test_bad_networks_are_refused_by_name(fields: Any, error: type[WeftError], text: str) -> None:
    with pytest.raises(error) as raised:
        read(**fields)
    assert text in str(raised.value)


@pytest.mark.parametrize("value", ["", "true", "yes", "on", "TRUE", "1", "anything"])
def test_the_option_encrypted_counts_whatever_its_value(value: str) -> None:
    assert read(Options={"encrypted": value}).encrypted
    assert not read(Options={}).encrypted


@given(st.integers(1, 4 * 10**18))
def test_moments_survive_their_text(moment: int) -> None:
    seconds, nanoseconds = divmod(moment, 10**9)
    assert parse_moment(f"{seconds}.{nanoseconds:09d}", "since") == moment
    assert rfc3339(moment).endswith("Z")
    assert parse_moment(rfc3339(moment), "since") // 10**9 == seconds


@pytest.mark.parametrize(
    "text", ["yesterday", "1.x", "--1", "99999-01-01T00:00:00Z", "1" * 400 + "x"]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_moment(text, "since")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (180, "3 minutes"),
        (3600, "About an hour"), (47 * 3600, "47 hours"), (3 * 86400, "3 days"), (20 * 86400, "2 weeks"), (900 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_durations_read_as_in_docker_ps(seconds: float, text: str) -> None:
    assert human_duration(int(seconds * 10**9)) == text
