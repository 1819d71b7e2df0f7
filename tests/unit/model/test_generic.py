"""Generic resources: what a node may have, and what a task gets of it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import InvalidArgument
from weft.model.generic import GenericResource, claim, resources_from, variables


def test_a_kind_is_an_amount_or_has_names() -> None:
    found = resources_from(["GPU=uuid-1", "licences=3", " GPU = uuid-2 "])
    assert found == (
        GenericResource("GPU", name="uuid-1"),
        GenericResource("GPU", name="uuid-2"),
        GenericResource("licences", 3),
    )
    assert resources_from([]) == ()


@pytest.mark.parametrize(
    "words",
    [
        ["GPU"], ["=1"], ["GPU="], ["GPU=1=2"], ["GPU=a,b"], ["GPU=a b"], ["G PU=1"], ["GPU=-1"],
        ["GPU=1", "GPU=2"], ["GPU=a", "GPU=2"], ["GPU=a", "GPU=a"], ["GPU=a\0"], ["GPU=" + "x" * 129],
        [f"GPU=g{n}" for n in range(257)],
    ],
)  # fmt: skip
def test_what_cannot_be_a_resource_is_refused(words: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="could not parse GenericResource"):
        resources_from(words)


def test_a_container_is_told_what_it_was_given() -> None:
    assigned = resources_from(["gpu=uuid-1", "gpu=uuid-2", "licences=3"])
    assert variables(assigned) == (
        "DOCKER_RESOURCE_GPU=uuid-1,uuid-2",
        "DOCKER_RESOURCE_LICENCES=3",
    )


@given(
    st.integers(0, 4),
    st.integers(0, 4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6),
)
def test_nothing_is_given_twice_and_nothing_is_refused_that_is_there(
    names: int, amount: int, wishes: list[tuple[int, int]]
) -> None:
    words = [*(f"GPU=g{n}" for n in range(names)), f"licences={amount}"]
    has, taken = resources_from(words), Counter[tuple[str, str]]()
    left = {"GPU": names, "licences": amount}
    for gpus, licences in wishes:
        wanted = (GenericResource("GPU", gpus), GenericResource("licences", licences))
        found = claim(has, taken, wanted)
        fits = gpus <= left["GPU"] and licences <= left["licences"]
        assert (found is not None) == fits
        for resource in found or ():
            taken[resource.key] += resource.amount
            left[resource.kind] -= resource.amount
    assert all(taken[resource.key] <= resource.amount for resource in has)
