"""What a container gets for its questions, asked and read with dnslib."""

import random
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.agent.workloads import workload
from weft.dns.resolver import Forward, Transport, answer
from weft.dns.zone import NameCache, NetworkNames, Zone, zone_for
from weft.model.assignment import (
    Assignment,
    EndpointRecord,
    NetworkDefinition,
    NetworkView,
    ServiceRecord,
    TaskAssignment,
)
from weft.model.ids import NetworkId, NodeId, ServiceId, TaskId
from weft.model.network import Segment
from weft.model.service import ContainerSpec, TaskSpec
from weft.model.task import Attachment

NODE = NodeId("n" * 25)
NET, INGRESS = NetworkId("net"), NetworkId("ing")
WEB = ServiceId("s-web")


def endpoint(
    network: NetworkId,
    task: str,
    host: str,
    serving: bool = True,
    aliases: tuple[str, ...] = (),
    service: ServiceId = WEB,
    starting: bool = False,
) -> EndpointRecord:
    return EndpointRecord(
        id=task,
        network=network,
        address=IPv4Interface(f"{host}/24"),
        node=NODE,
        vtep=IPv4Address("192.0.2.1"),
        task=TaskId(task),
        name=f"web.1.{task}",
        service=service,
        aliases=aliases,
        serving=serving,
        starting=starting,
    )


def view(
    id: NetworkId,
    name: str,
    subnet: str,
    endpoints: list[EndpointRecord],
    services: list[ServiceRecord],
    internal: bool = False,
    ingress: bool = False,
) -> NetworkView:
    segment = Segment(IPv4Network(subnet), IPv4Network(subnet)[1], 4096)
    definition = NetworkDefinition(
        id=id, name=name, segments=(segment,), internal=internal, ingress=ingress
    )
    return NetworkView(definition, {e.id: e for e in endpoints}, {s.id: s for s in services})


def assignment(
    dns_options: tuple[str, ...] = (),
    internal: bool = False,
    endpoints: list[EndpointRecord] | None = None,
) -> Assignment:
    tasks = endpoints or [
        endpoint(NET, "t1", "10.0.1.3", aliases=("0123456789ab",)),
        endpoint(NET, "t2", "10.0.1.4"),
        endpoint(NET, "t3", "10.0.1.5", serving=False),
    ]
    balancer = EndpointRecord(
        id=f"lb-{NODE}",
        network=NET,
        address=IPv4Interface("10.0.1.9/24"),
        node=NODE,
        vtep=IPv4Address("192.0.2.1"),
    )
    net = view(
        NET,
        "demo-net",
        "10.0.1.0/24",
        [*tasks, balancer],
        [
            ServiceRecord(
                id=WEB,
                network=NET,
                name="Web",
                virtual_address=IPv4Address("10.0.1.2"),
                aliases=("site",),
            ),
            ServiceRecord(id=ServiceId("s-rr"), network=NET, name="rr"),
        ],
        internal=internal,
    )
    ingress = view(
        INGRESS,
        "ingress",
        "10.0.0.0/24",
        [endpoint(INGRESS, "t1", "10.0.0.5")],
        [
            ServiceRecord(
                id=WEB, network=INGRESS, name="web", virtual_address=IPv4Address("10.0.0.4")
            ),
            ServiceRecord(
                id=ServiceId("s-x"),
                network=INGRESS,
                name="only-ingress",
                virtual_address=IPv4Address("10.0.0.8"),
            ),
        ],
        ingress=True,
    )
    attachments = (
        Attachment(INGRESS, IPv4Interface("10.0.0.5/24")),
        Attachment(NET, IPv4Interface("10.0.1.3/24")),
    )
    task = TaskAssignment(
        id=TaskId("t1"),
        service=WEB,
        service_name="web",
        slot=1,
        node=NODE,
        spec=TaskSpec(container=ContainerSpec(image="i", dns_options=dns_options)),
        attachments=attachments[1:] if internal else attachments,
    )
    return Assignment(node=NODE, tasks={task.id: task}, networks={NET: net, INGRESS: ingress})


def zone_of(
    assignment: Assignment, names: Callable[[NetworkView], NetworkNames] = NetworkNames.of
) -> Zone:
    return zone_for(assignment, workload(assignment.tasks[TaskId("t1")]), names)


def ask(
    name: str,
    type: str = "A",
    zone: Zone | None = None,
    transport: Transport = "udp",
    query: bytes | None = None,
) -> Any:
    """An answer as dnslib reads it, which has no types; or what was done instead."""
    zone = zone or zone_of(assignment(), NameCache())
    query = query or dnslib.DNSRecord.question(name, type).pack()
    reply = answer(query, zone, random.Random(1), transport)
    return dnslib.DNSRecord.parse(reply) if isinstance(reply, bytes) else reply


def test_tasks_that_are_starting_are_among_the_tasks_and_nowhere_else() -> None:
    endpoints = [
        endpoint(NET, "t1", "10.0.1.3"),
        endpoint(NET, "t2", "10.0.1.4", serving=False, starting=True),
        endpoint(NET, "r1", "10.0.1.6", service=ServiceId("s-rr")),
        endpoint(NET, "r2", "10.0.1.5", service=ServiceId("s-rr"), serving=False, starting=True),
    ]
    zone = zone_of(assignment(endpoints=endpoints))
    for name, expected in {
        "tasks.web": ["10.0.1.3", "10.0.1.4"],
        "tasks.site": ["10.0.1.3", "10.0.1.4"],
        "tasks.rr": ["10.0.1.5", "10.0.1.6"],
        "rr": ["10.0.1.6"],
        "web": ["10.0.1.2"],
    }.items():
        assert addresses(ask(name, zone=zone)) == expected


def addresses(reply: Any) -> list[str]:
    return sorted(str(r.rdata) for r in reply.rr)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web", ["10.0.1.2"]),
        ("WEB", ["10.0.1.2"]),
        ("web.", ["10.0.1.2"]),
        ("site", ["10.0.1.2"]),
        ("web.demo-net", ["10.0.1.2"]),
        ("tasks.web", ["10.0.1.3", "10.0.1.4"]),
        ("tasks.site", ["10.0.1.3", "10.0.1.4"]),
        ("tasks.web.demo-net", ["10.0.1.3", "10.0.1.4"]),
        ("web.1.t1", ["10.0.1.3"]),
        ("web.1.t3", ["10.0.1.5"]),
        ("0123456789ab", ["10.0.1.3"]),
        ("rr", []),
        ("tasks.rr", []),
    ],
)
def test_names_of_the_networks(name: str, expected: list[str]) -> None:
    reply = ask(name)
    assert addresses(reply) == expected
    assert reply.header.rcode == 0
    assert reply.header.ra == 1
    assert {r.ttl for r in reply.rr} <= {600}


@pytest.mark.parametrize("type", ["AAAA", "MX"])
def test_a_known_name_has_nothing_of_another_family_but_exists(type: str) -> None:
    reply = ask("web", type)
    assert (reply.header.rcode, reply.rr) == (0, [])


def test_addresses_come_in_changing_order() -> None:
    zone, query = zone_of(assignment()), dnslib.DNSRecord.question("tasks.web").pack()
    rng = random.Random(7)
    orders = {
        tuple(str(r.rdata) for r in dnslib.DNSRecord.parse(answer(query, zone, rng)).rr)
        for _ in range(50)
    }
    assert len(orders) == 2


def test_reverse() -> None:
    assert str(ask("3.1.0.10.in-addr.arpa", "PTR").rr[0].rdata) == "web.1.t1.demo-net."
    for unknown in (
        "5.0.0.10.in-addr.arpa",
        "9.9.9.9.in-addr.arpa",
        "x.in-addr.arpa",
        "1.in-addr.arpa",
        "in-addr.arpa",
    ):
        assert isinstance(ask(unknown, "PTR"), Forward)


@pytest.mark.parametrize(
    ("name", "type"),
    [
        ("example.org", "A"), ("nobody", "A"), ("web", "TXT"), ("web.other-net", "A"),
        *((name, "A") for name in ("only-ingress", "tasks.only-ingress", "web.ingress", "web.1.t1.ingress")),
    ],
)  # fmt: skip
def test_the_rest_is_forwarded_as_it_came(name: str, type: str) -> None:
    query = dnslib.DNSRecord.question(name, type).pack()
    assert ask(name, query=query) == Forward(query)


def test_a_container_on_internal_networks_only_asks_nobody_outside() -> None:
    zone = zone_of(assignment(internal=True))
    assert ask("example.org", zone=zone).header.rcode == dnslib.RCODE.SERVFAIL
    assert addresses(ask("web", zone=zone)) == ["10.0.1.2"]


def test_with_ndots_a_single_label_that_is_not_known_exists_without_addresses() -> None:
    zone = zone_of(assignment(dns_options=("ndots:2",)))
    reply = ask("nobody", zone=zone)
    assert (reply.header.rcode, reply.rr) == (0, [])
    assert isinstance(ask("nobody.example", zone=zone), Forward)
    assert addresses(ask("web", zone=zone)) == ["10.0.1.2"]


def many(n: int) -> Assignment:
    return assignment(endpoints=[endpoint(NET, f"t{i}", f"10.0.1.{i}") for i in range(10, 10 + n)])


def test_an_answer_is_cut_for_udp_and_whole_for_tcp() -> None:
    zone = zone_of(many(100))
    small, large = ask("tasks.web", zone=zone), ask("tasks.web", zone=zone, transport="tcp")
    assert (small.header.tc, large.header.tc) == (1, 0)
    assert 0 < len(small.rr) < len(large.rr) == 100
    query = dnslib.DNSRecord.question("tasks.web")
    query.add_ar(dnslib.EDNS0(udp_len=4096))
    assert len(ask("tasks.web", zone=zone, query=query.pack()).rr) == 100


def test_what_is_no_question() -> None:
    question = dnslib.DNSRecord.question("web")
    assert ask("", query=question.reply().pack()) is None
    assert ask("", query=b"123") is None
    assert ask("", query=question.pack()[:-3]).header.rcode == dnslib.RCODE.FORMERR
    question.header.opcode = 5
    assert ask("", query=question.pack()).header.rcode == dnslib.RCODE.NOTIMP


@given(st.binary(max_size=80))
def test_noise_never_raises(data: bytes) -> None:
    reply = answer(data, Zone(networks=()), random.Random(1))
    if isinstance(reply, bytes):
        assert reply[:2] == data[:2]


@given(st.binary(max_size=60), st.integers(0, 3))
def test_noise_behind_a_good_header_never_raises(data: bytes, questions: int) -> None:
    query = b"\x12\x34\x01\x00\0" + bytes([questions]) + b"\0" * 6 + data
    reply = answer(query, zone_of(assignment()), random.Random(1))
    assert isinstance(reply, bytes | Forward)


def test_who_is_not_there_knows_no_names() -> None:
    assert zone_for(assignment(), None) == Zone(networks=(), forwards=False)
