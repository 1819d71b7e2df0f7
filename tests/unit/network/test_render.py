"""From one table to another by elements, and who is sent where by what is written."""

from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.swarms import Swarm
from weft.model.assignment import ServiceRecord
from weft.model.ids import NetworkId, ServiceId
from weft.model.service import Affinity
from weft.model.trace import Packet
from weft.network.fragments import serving, table, union
from weft.network.ingress import mesh
from weft.network.kernel_state import HOST, ElementSet, SetType, Table
from weft.network.loadbalancer import choice
from weft.network.render.changes import AddElements, Changes, Comparison, RemoveElements, commands
from weft.network.render.table import text
from weft.network.service_table import (
    Backend,
    Published,
    Service,
    Services,
    balanced,
    service_table,
)
from weft.network.trace.conntrack import Connections
from weft.network.trace.nft import Flight, Ruleset, parse, run

FIRST = IPv4Address("10.0.0.0")
LEGS = SetType(("ether_addr",), ("mark",))
SERVERS = ("10.9.9.1", "10.9.9.2", "10.9.9.3")


def record(name: str, affinity: Affinity = "") -> ServiceRecord:
    return ServiceRecord(id=ServiceId(name), network=NetworkId("net"), name=name, affinity=affinity)


@st.composite
def services(
    draw: st.DrawFn,
    before: Services | None = None,
    destinations: Sequence[str | Published] = ("10.9.9.1", "10.9.9.2", "10.9.9.3"),
    port: int | None = None,
) -> dict[IPv4Address | Published, Service]:
    """Some of a few destinations; some of them lived through a change, some are what they were."""
    found = {}
    for number, destination in enumerate(destinations):
        key = IPv4Address(destination) if isinstance(destination, str) else destination
        old = (before or {}).get(key)
        kind = draw(st.sampled_from(["absent", "as it was", "another"]))
        if kind == "as it was" and old is not None:
            found[key] = old
        elif kind != "absent":
            numbers = draw(st.sets(st.integers(1, 20), max_size=12))
            backends = sorted(Backend(FIRST + n, port) for n in numbers)
            sticky: Affinity = draw(st.sampled_from(["", "", "client-address"]))
            name = f"s{number}{draw(st.sampled_from('ab'))}"
            found[key] = balanced(record(name, sticky), backends, old)
    return found


def virtual(services: Services, start: int = 0) -> Table:
    """The table of a container that calls them."""
    [made] = serving(choice("box", IPv4Address(start)), services).tables.values()
    return made


def published(services: Services) -> Table:
    """The table of a host on which they are published."""
    swarm = Swarm(1)
    view, facts = swarm.assignment(1).networks[swarm.ingress], swarm.facts(1)
    own = view.load_balancer(facts.node)
    assert own is not None
    parts = [p for p in mesh(view.definition, own, facts, at_one=True) if p.name == HOST]
    [made] = serving(union(HOST, parts), services).tables.values()
    return made


PORTS = (
    Published("tcp", 80),
    Published("udp", 80),
    Published("tcp", 81, FIRST + 9),
    Published("tcp", 80, FIRST + 9),
)


@st.composite
def pairs(draw: st.DrawFn) -> list[Table]:
    """Two tables of one shape."""
    destinations: Sequence[str | Published]
    if draw(st.booleans()):
        destinations, port = SERVERS, None
        empty = virtual({}, draw(st.integers(0, 300)))
    else:
        destinations, port = PORTS, 8000
        empty = published({})
    before = draw(services(None, destinations, port))
    tables = []
    for content in (before, draw(services(before, destinations, port))):
        marks = draw(
            st.dictionaries(
                st.sampled_from(["02:43:00:00:00:01", "02:43:00:00:00:02"]), st.integers(1, 3)
            )
        )
        legs = ElementSet(LEGS, {(mac,): (mark,) for mac, mark in marks.items()})
        tables.append(
            msgspec.structs.replace(empty, sets={**empty.sets, "legs": legs}, services=content)
        )
    return tables


def changes_between(old: Table, new: Table) -> Changes:
    """Of two tables of one shape."""
    found = Comparison().changes(old, new)
    assert found is not None
    return found


@given(pairs())
@settings(max_examples=150)
def test_the_changes_lead_from_any_table_to_any_other_of_its_shape(pair: list[Table]) -> None:
    old, new = pair
    changes = changes_between(old, new)
    assert parse(text(old)).after(new, changes) == parse(text(new))
    assert Comparison().changes(new, new) == ()
    assert bool(changes) == (parse(text(old)) != parse(text(new)))


@given(pairs())
def test_changes_are_commands_one_for_each(pair: list[Table]) -> None:
    old, new = pair
    words = [line.split()[0] for line in commands(new, changes_between(old, new))]
    assert set(words) <= {"add", "flush", "delete"}


def virtual_table(
    count: int, before: Service | None = None, start: int = 0
) -> tuple[Table, Service]:
    key = IPv4Address(SERVERS[0])
    service = balanced(
        record("web"), sorted(Backend(FIRST + n) for n in range(1, count + 1)), before
    )
    return virtual({key: service}, start), service


def test_one_task_more_is_one_element_and_one_less_are_two() -> None:
    """The first one goes, and the last takes its place."""
    old, service = virtual_table(10)
    new, _ = virtual_table(11, service)
    [added] = changes_between(old, new)
    assert isinstance(added, AddElements)
    assert len(added.elements) == 1
    left = balanced(record("web"), sorted(Backend(FIRST + n) for n in range(2, 11)), service)
    fewer = msgspec.structs.replace(old, services={IPv4Address(SERVERS[0]): left})
    removed, added = changes_between(old, fewer)
    assert isinstance(removed, RemoveElements)
    assert isinstance(added, AddElements)
    assert (len(removed.keys), len(added.elements)) == (2, 1)


def test_another_fixed_part_or_another_type_is_another_table() -> None:
    old, _ = virtual_table(2)
    retyped = {**old.sets, "vip-unserved": ElementSet(SetType(("inet_service",)))}
    for other in (
        msgspec.structs.replace(old, body=""),
        msgspec.structs.replace(old, start=1),
        msgspec.structs.replace(old, sets=retyped),
        Table("ip", "weft"),
    ):
        assert Comparison().changes(old, other) is None
        assert Comparison().changes(other, old) is None


def test_tables_that_share_what_they_hold_are_compared_once() -> None:
    old, service = virtual_table(3)
    new, _ = virtual_table(4, service)
    others = [msgspec.structs.replace(t, start=7) for t in (old, new)]
    comparison = Comparison()
    assert comparison.changes(old, new) is comparison.changes(*others)


# --- who is sent where


def asked(
    rules: Ruleset,
    counters: dict[str, int],
    hook: str = "vip-nat-out",
    destination: str = SERVERS[0],
    protocol: str = "tcp",
    port: int = 80,
) -> str:
    """The target of one new connection."""
    packet = Packet(protocol, FIRST, 40000, IPv4Address(destination), port)
    flight = Flight(packet, lambda _: True, counters, Connections())
    flight.mark = 0x20000
    return run(rules, rules.chains[hook], flight).word


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 10, 33])
@pytest.mark.parametrize("start", [0, 1, 6])
def test_tasks_take_turns_and_none_is_left_out(count: int, start: int) -> None:
    old, service = virtual_table(count + 7, start=start)
    for table_ in (virtual_table(count, start=start)[0], virtual_table(count, service, start)[0]):
        rules = parse(text(table_))
        counters: dict[str, int] = {}
        seen = [asked(rules, counters) for _ in range(4 * count)]
        for first in range(3 * count):
            assert set(Counter(seen[first : first + count]).values()) == {1}, (
                "each once in a round, wherever it begins"
            )
    del old


def test_callers_begin_with_different_tasks() -> None:
    first = [asked(parse(text(virtual_table(8, start=start)[0])), {}) for start in range(8)]
    assert len(set(first)) == 8


def test_a_caller_goes_on_where_it_was_when_tasks_change() -> None:
    old, service = virtual_table(8)
    rules = parse(text(old))
    counters: dict[str, int] = {}
    seen = [asked(rules, counters) for _ in range(3)]
    left = balanced(record("web"), sorted(Backend(FIRST + n) for n in range(1, 8)), service)
    new = msgspec.structs.replace(old, services={IPv4Address(SERVERS[0]): left})
    rules = rules.after(new, changes_between(old, new))
    seen += [asked(rules, counters) for _ in range(4)]
    assert len(set(seen)) == 7


def test_a_published_port_is_the_protocols_own() -> None:
    web, names = (
        balanced(record(name), [Backend(FIRST + n, 8000 + n)])
        for n, name in enumerate(("web", "names"), 1)
    )
    rules = parse(text(published({Published("tcp", 80): web, Published("udp", 80): names})))
    assert asked(rules, {}, "mesh-choice", port=80) == "dnat 10.0.0.1:8001"
    assert asked(rules, {}, "mesh-choice", protocol="udp") == "dnat 10.0.0.2:8002"
    assert asked(rules, {}, "mesh-choice", port=81) == "accept"


def test_a_packet_that_only_met_empty_slots_goes_to_the_first() -> None:
    """Others took the filled ones meanwhile: the kernel counts for all processors together."""
    rules = parse(text(virtual_table(1, virtual_table(8)[1])[0]))
    assert len(rules.elements["vip-slots"]) == 1

    class Ahead(dict[str, int]):
        """The count is always at an empty slot."""

        def get(self, key: str, default: Any = None) -> Any:
            return 3 if key.startswith("vip-10.9.9.1") else default

    assert asked(rules, Ahead()) == "dnat 10.0.0.1"


def test_sets_without_a_service_are_text() -> None:
    body = "  chain a {\n  }"
    [made] = table(
        body, sets={"legs": ElementSet(LEGS, {("02:43:00:00:00:01",): (0x1000001,)})}
    ).values()
    assert text(made) == (
        "  map legs {\n    type ether_addr : mark;\n    elements = { 02:43:00:00:00:01 : 0x01000001"
        " }\n  }\n" + body
    )


def test_a_service_table_is_what_a_table_takes() -> None:
    swarm = Swarm(2)
    net = swarm.network("mynet", "10.10.10.0/24")
    swarm.service("web", net, on=[1, 2])
    table_ = virtual(service_table(swarm.assignment(1).networks[net]).virtual)
    assert "jump vip-10.10.10.4" in text(table_)
