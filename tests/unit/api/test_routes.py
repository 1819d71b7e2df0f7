"""The table of requests."""

import pytest

from weft.api.call import Handler
from weft.api.routes import ROUTES, is_shared

OF_THE_SWARM = {
    f"weft.api.{name}"
    for name in (
        "captures",
        "looks",
        "data",
        "keys",
        "networks",
        "nodes",
        "service_logs",
        "services",
        "swarm",
        "tasks",
        "traces",
    )
}


@pytest.mark.parametrize(
    ("method", "path", "handler"),
    ROUTES,
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_is_about_the_swarms_state_waits_for_it_and_nothing_else_does(
    method: str, path: str, handler: Handler
) -> None:
    assert is_shared(path) == (handler.__module__ in OF_THE_SWARM)


def test_a_path_that_only_begins_alike_is_another() -> None:
    assert not is_shared("/networksomething")
    assert is_shared("/networks/{id}")
