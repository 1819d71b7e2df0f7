"""Whom new connections go to: everybody in turn, wherever in its history a service is, and one slot
for each change."""

from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Interface

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.swarms import Swarm
from weft.model.assignment import NetworkView, ServiceRecord
from weft.model.ids import NetworkId, ServiceId, TaskId
from weft.model.service import PublishedPort
from weft.network.service_table import (
    TRIES,
    Backend,
    Published,
    Service,
    ServiceTable,
    balanced,
    service_table,
)

RECORD = ServiceRecord(id=ServiceId("web"), network=NetworkId("net"), name="web")
FIRST = IPv4Address("10.0.0.0")


def backends(numbers: Iterable[int]) -> list[Backend]:
    return sorted(Backend(FIRST + number) for number in numbers)


histories = st.lists(st.sets(st.integers(1, 40), max_size=40), min_size=1, max_size=8)


def lived(history: Sequence[set[int]]) -> Service:
    """A service that had these backends one after the other."""
    service: Service | None = None
    for numbers in history:
        service = balanced(RECORD, backends(numbers), service)
    assert service is not None
    return service


@given(histories)
def test_every_backend_has_as_many_slots_as_it_weighs(history: list[set[int]]) -> None:
    service = lived(history)
    assert Counter(b for _, b in service.slots()) == Counter(backends(history[-1]))
    taken = [slot for slot, _ in service.slots()]
    assert len(set(taken)) == len(taken)
    assert all(0 <= slot < service.size for slot in taken)


@given(histories)
def test_no_more_slots_in_a_row_are_empty_than_are_tried(history: list[set[int]]) -> None:
    service = lived(history)
    taken = {slot for slot, _ in service.slots()}
    for first in range(service.size):
        assert any((first + i) % service.size in taken for i in range(TRIES))
    assert not taken or 0 in taken, "the last of the rules goes there"


@given(histories, st.sets(st.integers(1, 40), max_size=40))
@settings(max_examples=200)
def test_a_change_is_as_many_slots_as_backends(history: list[set[int]], numbers: set[int]) -> None:
    before = lived(history)
    after = balanced(RECORD, backends(numbers), before)
    if after.size != before.size:
        return
    old, new = dict(before.slots()), dict(after.slots())
    changed = sum(old.get(slot) != new.get(slot) for slot in old.keys() | new.keys())
    come, gone = set(numbers) - history[-1], history[-1] - set(numbers)
    assert changed <= max(len(come), len(gone)) + max(0, len(gone) - len(come))


def test_the_ring_changes_its_size_rarely() -> None:
    """Up one by one, down, and around a power of two: nine tasks of which one is replaced."""
    grown = [lived([set(range(n)) for n in range(1, count + 1)]).size for count in range(1, 34)]
    assert grown == [1, 2, *[4] * 2, *[8] * 4, *[16] * 8, *[32] * 16, 64]
    assert [
        lived([set(range(32)), set(range(count))]).size for count in (31, 9, 8, 5, 4, 3, 1)
    ] == [32, 32, 32, 32, 32, 4, 1]
    assert lived([set(range(9)), set(range(8)), set(range(9))]).size == 16
    assert lived([set(range(9)), set()]) == Service(RECORD.id, "web")


def test_a_weight_is_a_number_of_turns() -> None:
    heavy, light = Backend(FIRST + 1, 80, weight=3), Backend(FIRST + 2, 80)
    service = balanced(RECORD, [heavy, light])
    assert Counter(b.address for _, b in service.slots()) == {heavy.address: 3, light.address: 1}
    assert balanced(RECORD, [msgspec.structs.replace(heavy, weight=1), light], service).size == 4


# --- of a network


def swarm_with(*published: int) -> tuple[Swarm, NetworkId, list[TaskId]]:
    swarm = Swarm(2)
    net = swarm.network("mynet", "10.10.10.0/24")
    ports = [PublishedPort(target=80 + i, published=number) for i, number in enumerate(published)]
    tasks = swarm.service("web", net, ports=ports, on=[1, 2])
    swarm.service("app", net, on=[1])
    swarm.service("names", net, on=[1], virtual=False)
    return swarm, net, tasks


def view_of(swarm: Swarm, network: NetworkId) -> NetworkView:
    return swarm.assignment(1).networks[network]


def test_a_network_offers_virtual_addresses_and_the_ingress_network_ports() -> None:
    swarm, net, _ = swarm_with(8080, 9090)
    inner, outer = (service_table(view_of(swarm, id)) for id in (net, swarm.ingress))
    assert {str(address): service.name for address, service in inner.virtual.items()} == {
        "10.10.10.4": "web", "10.10.10.7": "app",
    }  # fmt: skip
    assert not inner.published
    assert {
        key: [str(b.address) for b in service.backends] for key, service in outer.published.items()
    } == {
        Published("tcp", 8080): ["10.0.0.5", "10.0.0.6"],
        Published("tcp", 9090): ["10.0.0.5", "10.0.0.6"],
    }
    assert [b.port for b in outer.published[Published("tcp", 9090)].backends] == [81, 81]
    assert all(b.port is None for service in inner.virtual.values() for b in service.backends)


def test_what_did_not_change_is_the_same_object() -> None:
    swarm, net, [first, _] = swarm_with(8080)
    before = service_table(view_of(swarm, net))
    assert service_table(view_of(swarm, net), before) is before
    swarm.set_serving(first, False)
    after = service_table(view_of(swarm, net), before)
    web, app = after.virtual
    assert (
        after.virtual[app] is before.virtual[app],
        after.virtual[web] == before.virtual[web],
    ) == (True, False)
    assert len(after.virtual[web].backends) == 1


def test_a_service_none_of_whose_tasks_serves_stays_in_the_table() -> None:
    swarm, net, tasks = swarm_with(8080)
    for task in tasks:
        swarm.set_serving(task, False)
    assert [
        s.backends for s in service_table(view_of(swarm, swarm.ingress)).published.values()
    ] == [()]
    assert service_table(view_of(swarm, net)).virtual.keys() == {
        IPv4Address("10.10.10.4"),
        IPv4Address("10.10.10.7"),
    }


def test_a_port_that_two_services_publish_goes_to_the_other_when_the_first_gives_it_up() -> None:
    swarm, _, _ = swarm_with(8080)
    swarm.service("zzz", ports=[PublishedPort(target=9, published=8080)], on=[1])
    both = service_table(view_of(swarm, swarm.ingress))
    key = Published("tcp", 8080)
    assert both.published[key].name == "web"
    del swarm.services[swarm.ingress][both.published[key].id]
    left = service_table(view_of(swarm, swarm.ingress), both)
    assert (left.published[key].name, [b.port for b in left.published[key].backends]) == (
        "zzz",
        [9],
    )


def targets(table: ServiceTable) -> dict[int, list[str]]:
    """Where each published port leads: address and port."""
    found = {}
    for key, service in table.published.items():
        assert isinstance(key, Published)
        found[key.port] = [f"{b.address}:{b.port}" for b in sorted(service.backends)]
    return found


def test_tasks_keep_the_ports_that_they_were_started_with() -> None:
    """An update of the target port, of the published port, and of both, task by task."""
    swarm, _, [first, second] = swarm_with(8080)
    before = service_table(view_of(swarm, swarm.ingress))
    swarm.set_serving(first, False)
    swarm.publish_anew("web", [PublishedPort(target=81, published=8080)], on=[1])
    table = service_table(view_of(swarm, swarm.ingress), before)
    assert targets(table) == {8080: ["10.0.0.6:80", "10.0.0.7:81"]}
    new = [PublishedPort(target=81, published=8080), PublishedPort(target=82, published=9090)]
    swarm.publish_anew("web", new, on=[2])
    table = service_table(view_of(swarm, swarm.ingress), table)
    assert targets(table) == {
        8080: ["10.0.0.6:80", "10.0.0.7:81", "10.0.0.8:81"],
        9090: ["10.0.0.8:82"],
    }
    swarm.publish_anew("web", new[1:])
    table = service_table(view_of(swarm, swarm.ingress), table)
    assert targets(table)[8080] == ["10.0.0.6:80", "10.0.0.7:81", "10.0.0.8:81"]
    assert targets(table) == targets(service_table(view_of(swarm, swarm.ingress)))
    swarm.remove(first)
    swarm.remove(second)
    assert targets(service_table(view_of(swarm, swarm.ingress), table))[8080] == [
        "10.0.0.7:81",
        "10.0.0.8:81",
    ]


def test_a_port_is_that_of_the_service_that_publishes_it_now() -> None:
    """One gives it up, another takes it, while tasks of the first still have it."""
    swarm, _, _ = swarm_with(8080)
    swarm.publish_anew("web", [PublishedPort(target=80, published=9090)])
    before = service_table(view_of(swarm, swarm.ingress))
    assert targets(before)[8080] == ["10.0.0.5:80", "10.0.0.6:80"]
    swarm.service("zzz", ports=[PublishedPort(target=9, published=8080)], on=[1])
    after = service_table(view_of(swarm, swarm.ingress), before)
    assert targets(after) == {8080: ["10.0.0.8:9"], 9090: []}
    assert targets(after) == targets(service_table(view_of(swarm, swarm.ingress)))


def test_a_task_that_has_another_address_is_another_backend() -> None:
    swarm, net, [first, _] = swarm_with(8080)
    before = service_table(view_of(swarm, net))
    endpoints = swarm.endpoints[net]
    endpoints[first] = msgspec.structs.replace(
        endpoints[first], address=IPv4Interface("10.10.10.99/24")
    )
    after = service_table(view_of(swarm, net), before)
    [web, _] = after.virtual.values()
    assert {str(b.address) for b in web.backends} == {"10.10.10.99", "10.10.10.6"}
