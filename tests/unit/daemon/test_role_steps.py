"""From every state of a node its steps lead to what its certificate says, and nothing is lost on
the way."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.daemon.role_steps import RoleFacts, Step, StoreKind, next_step

KINDS: tuple[StoreKind, ...] = ("none", "alone", "shared", "external")

facts = st.builds(
    RoleFacts, role=st.sampled_from(["worker", "manager"]), store=st.sampled_from(KINDS), external=st.booleans(),
    running=st.sampled_from(KINDS), removed=st.booleans(), others_wanted=st.booleans(), leftovers=st.booleans(),
    damaged=st.booleans(),
)  # fmt: skip


def manager(**fields: object) -> RoleFacts:
    return replace(RoleFacts(role="manager", store="none"), **fields)  # type: ignore[arg-type]


def worker(**fields: object) -> RoleFacts:
    return replace(RoleFacts(role="worker", store="none"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "step"),
    [
        (worker(), Step.NOTHING),
        (worker(leftovers=True), Step.LEAVE),
        (worker(store="shared"), Step.LEAVE),
        (worker(store="shared", running="shared"), Step.LEAVE),
        (worker(store="external", running="external", external=True), Step.LEAVE),
        (worker(store="alone", damaged=True), Step.LEAVE),
        (manager(), Step.JOIN),
        (manager(leftovers=True), Step.JOIN),
        (manager(store="alone"), Step.OPEN_ALONE),
        (manager(store="shared"), Step.OPEN_SHARED),
        (manager(store="shared", leftovers=True), Step.OPEN_SHARED),
        (manager(external=True), Step.OPEN_EXTERNAL),
        (manager(store="external", external=True), Step.OPEN_EXTERNAL),
        (manager(store="alone", running="alone"), Step.NOTHING),
        (manager(store="alone", running="alone", others_wanted=True), Step.MOVE),
        (manager(store="shared", running="shared", others_wanted=True), Step.NOTHING),
        (
            manager(store="external", running="external", others_wanted=True, external=True),
            Step.NOTHING,
        ),
        (manager(store="shared", running="shared", removed=True), Step.LEAVE),
        (manager(store="shared", removed=True), Step.LEAVE),
        (manager(store="shared", damaged=True), Step.NOTHING),
        (manager(damaged=True), Step.NOTHING),
    ],
)
def test_the_next_step(now: RoleFacts, step: Step) -> None:
    assert next_step(now) is step


def after(now: RoleFacts, step: Step) -> RoleFacts:
    """What a step that succeeds comes to."""
    match step:
        case Step.OPEN_ALONE | Step.OPEN_SHARED:
            return replace(now, running=now.store)
        case Step.OPEN_EXTERNAL:
            return replace(now, running="external", store="external")
        case Step.JOIN:
            return replace(now, store="shared", leftovers=True)
        case Step.MOVE:
            return replace(now, store="shared", running="none", leftovers=True)
        case Step.LEAVE:
            return replace(now, store="none", running="none", removed=False, leftovers=False)
        case Step.NOTHING:
            return now


@given(facts)
def test_the_steps_end_at_what_the_certificate_says(begin: RoleFacts) -> None:
    now, taken = begin, []
    while (step := next_step(now)) is not Step.NOTHING:
        taken.append(step)
        assert len(taken) <= 4, taken
        now = after(now, step)
    if now.role == "worker":
        assert (now.store, now.running, now.leftovers) == ("none", "none", False)
    elif not begin.damaged:
        assert now.running != "none"
        assert not now.removed
        assert not (now.running == "alone" and now.others_wanted)


@given(facts)
def test_a_state_is_left_only_by_a_worker_or_by_who_was_removed(now: RoleFacts) -> None:
    if next_step(now) is Step.LEAVE:
        assert now.role == "worker" or now.removed
    if now.store in ("alone", "shared") and now.role == "manager":
        assert next_step(now) is not Step.JOIN


@given(facts)
def test_damage_stops_a_manager_and_never_a_worker(now: RoleFacts) -> None:
    damaged = next_step(replace(now, damaged=True))
    assert damaged is (
        next_step(replace(now, damaged=False)) if now.role == "worker" else Step.NOTHING
    )
