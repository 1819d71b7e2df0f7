"""Which task serves a client that is to stay with one: shares, and what a change moves."""

from collections import Counter
from ipaddress import IPv4Address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.network.test_service_table import RECORD, backends
from weft.network.affinity import ring_size
from weft.network.render.services import turn
from weft.network.service_table import Backend, Service, balanced
from weft.network.trace.jhash import jhash

STICKY = msgspec.structs.replace(RECORD, affinity="client-address")
numbers = st.sets(st.integers(1, 40), min_size=1, max_size=40)


def ring(wanted: set[int], before: Service | None = None) -> Service:
    return balanced(STICKY, backends(wanted), before)


@given(numbers, numbers)
def test_the_past_does_not_count(first: set[int], second: set[int]) -> None:
    """Hosts that have seen other changes agree, also on a service that had no affinity before."""
    assert (
        ring(second, ring(first)) == ring(second) == ring(second, balanced(RECORD, backends(first)))
    )


@given(numbers)
def test_each_slot_is_taken_and_each_backend_has_some(wanted: set[int]) -> None:
    service = ring(wanted)
    slots = dict(service.slots())
    assert sorted(slots) == list(range(service.size))
    assert set(slots.values()) == set(backends(wanted))


@pytest.mark.parametrize(("count", "most"), [(2, 1.3), (3, 1.3), (10, 1.7), (40, 1.8)])
def test_shares_are_about_equal(count: int, most: float) -> None:
    service = ring(set(range(1, count + 1)))
    shares = Counter(service.backends).values()
    assert max(shares) * count / service.size < most
    assert min(shares) * count / service.size > 2 - most


@given(numbers, st.integers(41, 50))
def test_a_new_backend_takes_slots_and_moves_none_between_others(old: set[int], new: int) -> None:
    before, after = ring(old), ring(old | {new})
    if before.size != after.size:
        return
    come, *_ = backends({new})
    changed = [
        pair for pair in zip(before.backends, after.backends, strict=True) if len(set(pair)) == 2
    ]
    assert {now for _, now in changed} == {come}
    assert len(changed) == after.backends.count(come)


def test_half_of_the_slots_stay_when_their_number_doubles() -> None:
    before, after = ring(set(range(16))), ring(set(range(17)))
    assert after.size == 2 * before.size
    kept = sum(a == b for a, b in zip(before.backends, after.backends, strict=False))
    assert kept > before.size * 0.85
    for slot, backend in before.slots():
        twin = dict(after.slots())[2 * slot]
        assert twin in (backend, Backend(IPv4Address("10.0.0.16")))


def test_a_ring_has_room_for_many() -> None:
    assert [ring_size(n) for n in (0, 1, 16, 17, 1000)] == [0, 256, 256, 512, 16384]


def test_the_rule_hashes_the_client() -> None:
    found = turn(IPv4Address("10.0.0.5"), ring({1, 2}))
    assert found is not None
    assert found.rule(7) == (
        'dnat ip to ip daddr . jhash ip saddr mod 256 seed 0x77656674 map @vip-slots comment "web"'
    )


def test_the_hash_spreads_neighbours() -> None:
    slots = {jhash(IPv4Address("192.0.2.0") + n, 256, 0x77656674) for n in range(200)}
    assert len(slots) > 100
