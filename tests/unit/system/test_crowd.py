"""Who must go to make room, by arrivals alone: no sockets, no time."""

import random

from hypothesis import given
from hypothesis import strategies as st

from weft.system.crowd import Crowd, CrowdLimits

LIMITS = CrowdLimits(strangers=20, per_source=8, per_member=3)


def crowd(known: str = "") -> Crowd[str]:
    return Crowd(LIMITS, lambda source: source == known)


def test_who_opens_many_loses_its_own_and_others_lose_nothing() -> None:
    here = crowd()
    for number in range(5):
        assert here.enter(f"honest{number}", f"10.0.0.{number}") is None
    gone = [here.enter(f"flood{number}", "10.9.9.9") for number in range(1000)]
    assert gone[:8] == [None] * 8
    assert gone[8:] == [f"flood{number}" for number in range(992)], "the oldest of its own"
    assert len(here) == 5 + 8


def test_of_one_address_those_go_first_that_have_said_nothing() -> None:
    here = crowd()
    here.enter("honest", "10.0.0.1")
    here.spoke("honest")
    gone = {here.enter(f"flood{number}", "10.0.0.1") for number in range(100)}
    assert "honest" not in gone
    assert "flood99" not in gone, "nor the newest"


def test_the_newest_has_a_moment_also_where_all_others_have_said_something() -> None:
    here = crowd()
    for number in range(8):
        here.enter(f"early{number}", "10.0.0.1")
        here.spoke(f"early{number}")
    assert here.enter("newest", "10.0.0.1") == "early0"


def test_strangers_from_ever_so_many_addresses_do_not_keep_nodes_out() -> None:
    here = crowd(known="10.0.0.1")
    gone = [here.enter(f"flood{n}", f"10.{n // 250}.9.{n % 250}") for n in range(20)]
    assert gone == [None] * 20
    gone = [here.enter("node", "10.0.0.1")]
    gone += [here.enter(f"later{n}", f"11.{n // 250}.9.{n % 250}") for n in range(500)]
    assert gone[0] == "flood0"
    assert "node" not in gone
    assert None not in gone


def test_one_member_has_a_few_and_does_not_count_as_a_stranger() -> None:
    here = crowd()
    gone = []
    for number in range(10):
        here.enter(f"m{number}", "10.0.0.1")
        gone.append(here.is_member(f"m{number}", "node1"))
    assert gone == [None] * 3 + [f"m{number}" for number in range(7)]
    here.enter("other", "10.0.0.1")
    assert here.is_member("other", "node2") is None
    assert here.leave("other")
    assert not here.leave("other")


@given(st.integers(0, 2**32), st.integers(1, 300))
def test_there_are_never_more_than_the_limits(seed: int, steps: int) -> None:
    rng, here, gone = (
        random.Random(seed),
        Crowd[int](LIMITS, lambda source: source < "c"),
        set[int](),
    )
    sources = dict[int, str]()
    members = dict[int, str]()
    for one in range(steps):
        match rng.choice("eeeesml"):
            case "e":
                sources[one] = rng.choice("abcdefgh")
                victim = here.enter(one, sources[one])
            case "m" if sources:
                which = rng.choice(list(sources))
                del sources[which]
                members[which] = rng.choice("xy")
                victim = here.is_member(which, members[which])
            case "l" if sources:
                which = rng.choice(list(sources))
                del sources[which]
                assert here.leave(which)
                victim = None
            case "s" if sources:
                here.spoke(rng.choice(list(sources)))
                victim = None
            case _:
                victim = None
        if victim is not None:
            assert victim not in gone, "nobody goes twice"
            gone.add(victim)
            assert (sources.pop(victim, None) or members.pop(victim, None)) is not None
        assert set(here.all()) == sources.keys() | members.keys()
        assert len(sources) <= LIMITS.strangers
        assert all(list(sources.values()).count(s) <= LIMITS.per_source for s in sources.values())
        assert all(list(members.values()).count(m) <= LIMITS.per_member for m in members.values())
