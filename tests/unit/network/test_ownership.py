"""What in the host's own namespace is taken for ours, and so compared and removed: that, and
nothing that looks like it."""

import pytest

from weft.network.ownership import (
    ANSWER_MARK,
    CLEAR_MARK,
    ESP_MARK,
    GATEWAY_PRIORITY,
    GATEWAY_TABLE,
    MESH_PRIORITIES,
    MESH_TABLE,
    REQUEST_MARK,
    owns_link,
    owns_routing_table,
    owns_rule,
    owns_table,
)

NEIGHBOURS = (
    0,
    1,
    REQUEST_MARK - 1,
    REQUEST_MARK + 1,
    REQUEST_MARK | ANSWER_MARK << 4,
    ESP_MARK,
    CLEAR_MARK,
)
"""Marks that somebody else may use: none, bits that ours have, and our own for other things."""


@pytest.mark.parametrize("priority", MESH_PRIORITIES)
def test_a_rule_is_ours_by_its_priority_and_its_mark(priority: int) -> None:
    assert all(owns_rule(priority, mark, None) for mark in (REQUEST_MARK, ANSWER_MARK))
    assert not [mark for mark in NEIGHBOURS if owns_rule(priority, mark, None)]


def test_the_gateways_rule_is_ours_by_its_priority_and_its_device() -> None:
    assert owns_rule(GATEWAY_PRIORITY, 0, "docker_gwbridge")
    assert not owns_rule(GATEWAY_PRIORITY, 0, "docker0")
    assert not owns_rule(GATEWAY_PRIORITY, 0, None)
    assert not owns_rule(GATEWAY_PRIORITY, 1, "docker_gwbridge")


@pytest.mark.parametrize("priority", [0, 898, 902, 903, 32766])
def test_a_rule_of_another_priority_is_somebody_elses_whatever_it_marks(priority: int) -> None:
    assert not owns_rule(priority, REQUEST_MARK, "docker_gwbridge")
    assert not owns_rule(priority, ANSWER_MARK, None)


def test_links_tables_and_routing_tables_are_ours_by_their_whole_names() -> None:
    assert all(map(owns_link, ("docker_gwbridge", "ing0", "wgw-0123456789")))
    assert not [
        name
        for name in ("docker0", "docker_gwbridge0", "ing00", "ing1", "wgw", "xwgw-1", "eth0")
        if owns_link(name)
    ]
    assert all(map(owns_table, ("weft", "weft-guard", "weft-underlay")))
    assert not [
        name for name in ("wefts", "weft_guard", "my-weft", "wef", "filter") if owns_table(name)
    ]
    assert [
        owns_routing_table(table)
        for table in (MESH_TABLE - 1, MESH_TABLE, GATEWAY_TABLE, GATEWAY_TABLE + 1)
    ] == [False, True, True, False]
