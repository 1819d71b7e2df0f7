"""From a task to its container's configuration, compared with what a real Swarm made."""

from ipaddress import IPv4Interface

import msgspec
import pytest

from tests.support.swarms import Swarm
from weft.agent.workloads import filled_workload
from weft.engine.adapters import HostResolver
from weft.engine.container_config import Host, container_config, resolv_conf
from weft.errors import InvalidArgument
from weft.model.assignment import TaskAssignment
from weft.model.container import ContainerConfig
from weft.model.ids import ContainerId, WorkloadId
from weft.model.node import NodeDescription
from weft.model.sandbox import Sandbox
from weft.model.service import ContainerSpec, Mount

ID = ContainerId("ef4b727d929b" + "7" * 52)
RESOLVER = HostResolver(("192.0.2.53",), ("example.org",), ("edns0", "ndots:3"))
NODE = NodeDescription(hostname="node1")


def config(
    spec: ContainerSpec | None = None, host_network: bool = False, networks: bool = True
) -> tuple[TaskAssignment, ContainerConfig]:
    swarm = Swarm(1)
    net = swarm.network("demo-net", "10.10.10.0/24")
    other = swarm.network("other-net", "10.10.11.0/24")
    [id] = swarm.service("demo", swarm.ingress, net, other, on=[1])
    assignment = swarm.assignment(1)
    task = assignment.tasks[id]
    task_spec = msgspec.structs.replace(
        task.spec, container=spec or ContainerSpec(image="i"), host_network=host_network
    )
    attachments = task.attachments if networks and not host_network else ()
    task = msgspec.structs.replace(task, spec=task_spec, attachments=attachments)
    sandbox = Sandbox(
        id="861f86ec6ca2" + "0" * 52,
        workload=WorkloadId(id),
        container=ID,
        gateway=IPv4Interface("172.18.0.3/16"),
    )
    made = container_config(
        filled_workload(task, NODE),
        ID,
        None if host_network else sandbox,
        assignment,
        Host(NODE.hostname, RESOLVER),
    )
    return task, made


def test_a_container_on_no_network_finds_itself_by_its_name() -> None:
    _, made = config(networks=False)
    assert made.hosts.splitlines()[-1] == "172.18.0.3\tef4b727d929b"


@pytest.mark.parametrize(("host_network", "address"), [(False, "172.18.0.1"), (True, "127.0.0.1")])
def test_the_hosts_gateway_may_be_named_in_place_of_an_address(
    host_network: bool, address: str
) -> None:
    _, made = config(
        ContainerSpec(image="i", hosts=("host-gateway db", "192.0.2.1 other")), host_network
    )
    assert f"{address}\tdb\n192.0.2.1\tother\n" in made.hosts


def test_a_dot_stands_for_no_domain() -> None:
    spec = ContainerSpec(image="i", dns_search=("ex.com", "."))
    assert "search ex.com\n" in resolv_conf(spec, RESOLVER, own=True)
    assert "search" not in resolv_conf(
        msgspec.structs.replace(spec, dns_search=(".",)), RESOLVER, own=True
    )


def test_names_and_labels() -> None:
    task, made = config(ContainerSpec(image="i", labels={"mine": "1"}))
    assert made.name == f"demo.1.{task.id}"
    assert made.hostname == "ef4b727d929b"
    assert made.namespace == "/run/docker/netns/861f86ec6ca2"
    assert made.labels == {
        "mine": "1",
        "com.docker.swarm.node.id": task.node,
        "com.docker.swarm.service.id": task.service,
        "com.docker.swarm.service.name": "demo",
        "com.docker.swarm.task": "",
        "com.docker.swarm.task.id": task.id,
        "com.docker.swarm.task.name": f"demo.1.{task.id}",
    }


def test_hosts_names_the_own_address_on_each_network_that_is_not_ingress() -> None:
    task, made = config(ContainerSpec(image="i", hosts=("192.0.2.9 db database", "  ")))
    own = [f"{attachment.address.ip}\tef4b727d929b" for attachment in task.attachments[1:]]
    assert made.hosts.splitlines()[0] == "127.0.0.1\tlocalhost"
    assert made.hosts.splitlines()[-3:] == ["192.0.2.9\tdb database", *own]
    assert len(own) == 2


def test_resolv_conf() -> None:
    _, made = config()
    assert made.resolv_conf == "nameserver 127.0.0.11\nsearch example.org\noptions edns0 ndots:0\n"
    spec = ContainerSpec(
        image="i", dns_servers=("192.0.2.1",), dns_search=("a.b",), dns_options=("ndots:2",)
    )
    assert (
        resolv_conf(spec, RESOLVER, own=True)
        == "nameserver 127.0.0.11\nsearch a.b\noptions ndots:2\n"
    )
    assert (
        resolv_conf(spec, RESOLVER, own=False)
        == "nameserver 192.0.2.1\nsearch a.b\noptions ndots:2\n"
    )


def test_on_the_hosts_network_it_is_the_host() -> None:
    _, made = config(host_network=True)
    assert (made.namespace, made.sandbox_id, made.hostname) == (None, "", "node1")
    assert made.resolv_conf == "nameserver 192.0.2.53\nsearch example.org\noptions edns0 ndots:3\n"


def test_templates() -> None:
    spec = ContainerSpec(
        image="i",
        hostname="{{.Service.Name}}-{{.Task.Slot}}",
        env=("WHERE={{ .Node.Hostname }}", "PLAIN=$x"),
        mounts=(Mount(type="bind", source="/srv/{{.Task.ID}}", target="/data"),),
    )
    task, made = config(spec)
    assert made.hostname == "demo-1"
    assert made.spec.env == ("WHERE=node1", "PLAIN=$x")
    assert made.spec.mounts[0].source == f"/srv/{task.id}"


@pytest.mark.parametrize(
    "text",
    ["{{.Node.Hostnam}}", "{{env `X`}}", "{{.Service.Labels.x}}", "{{.Node.ID", "{{{{.Node.ID}}"],
)
def test_a_template_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot expand template"):
        config(ContainerSpec(image="i", env=(f"A={text}",)))


def test_templates_take_time_in_proportion_to_their_length() -> None:
    """What looks like the beginning of one a million times over is read once."""
    for text in ("{{" + " " * 1_000_000, "{{" * 500_000, "{{ }" * 250_000):
        with pytest.raises(InvalidArgument, match=r"cannot expand template .* characters\)"):
            config(ContainerSpec(image="i", env=(f"A={text}",)))
