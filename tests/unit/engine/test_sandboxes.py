"""Sandboxes: no address is held twice, whatever is given and taken back."""

from ipaddress import IPv4Address, IPv4Interface

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from weft.engine.sandboxes import choose_gateway, lowest_free
from weft.errors import Exhausted
from weft.model.ids import NodeId
from weft.model.sandbox import NodeFacts

FACTS = NodeFacts(node=NodeId("n1"), data_path_address=IPv4Address("192.0.2.1"))


def test_the_first_address_is_the_one_after_the_ingress_sandboxs() -> None:
    assert choose_gateway(FACTS, set(), 0) == IPv4Interface("172.18.0.3/16")


@given(
    st.integers(24, 30),
    st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=120),
)
def test_no_gateway_address_twice_and_none_left_unused(
    prefix: int, actions: list[tuple[bool, int]]
) -> None:
    facts = msgspec.structs.replace(FACTS, gateway=IPv4Interface(f"172.18.0.1/{prefix}"))
    usable = facts.gateway.network.num_addresses - 4
    held: list[IPv4Address] = []
    cursor = 0
    for give, which in actions:
        if give:
            try:
                address = choose_gateway(facts, set(held), cursor).ip
            except Exhausted:
                assert len(held) == usable
                continue
            assert address not in held
            assert address in facts.gateway.network
            assert address not in (facts.gateway.ip, facts.ingress_gateway.ip)
            assert address not in (
                facts.gateway.network.network_address,
                facts.gateway.network.broadcast_address,
            )
            held.append(address)
            cursor = int(address)
        elif held:
            held.pop(which % len(held))


def test_an_address_given_back_is_not_at_once_somebody_elses() -> None:
    first = choose_gateway(FACTS, set(), 0)
    assert choose_gateway(FACTS, set(), int(first.ip)) != first


@given(st.sets(st.integers(1, 20)))
def test_the_lowest_free_number(used: set[int]) -> None:
    free = lowest_free(used)
    assert free not in used
    assert all(n in used for n in range(1, free))
