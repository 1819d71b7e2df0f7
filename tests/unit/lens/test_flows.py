"""`weft flows` joins what nodes have observed: each connection once, whole, in whatever order they
tell; and shows it by name."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from weft.lens.flows.changes import PATIENCE, Changes
from weft.lens.flows.joined import Connection, Joined
from weft.lens.flows.rows import (
    Names,
    as_json,
    each_json,
    is_of,
    octets,
    row,
    states,
    table,
    together,
    way,
)
from weft.model.flows import (
    FlowsFrame,
    Observation,
    Party,
    PartySides,
    State,
    Traffic,
)

TCP = 6
NODES = Names((("n1", "node1", ("192.0.2.1",)), ("n2", "node2", ("192.0.2.2",))))
APP = Party("10.0.1.5", "task", "app.1", "app")
APP_OUT = Party("172.18.0.5", "task", "app.1", "app", is_local=True)
WEB = Party("10.0.1.6", "task", "web.1", "web")
WEB_IN = Party("10.0.0.6", "task", "web.1", "web")
VIRTUAL = Party("10.0.1.2", "service", "web", "web")
PLAIN = Party("172.17.0.2", "container", "box", is_local=True)
NODE1 = Party("192.0.2.1", "node", "n1")
NODE2 = Party("192.0.2.2", "outside", "192.0.2.2")
CLIENT = Party("203.0.113.9", "outside", "203.0.113.9")

Sides = tuple[Party, int, Party, int]


class Hop(NamedTuple):
    """A connection at one place."""

    node: str
    place: int
    asked: Sides
    carried: Sides

    def frame(
        self, state: State = "open", sent: Traffic | None = None, ended: bool = False,
        is_table: bool = False,
    ) -> FlowsFrame:  # fmt: skip
        parties = tuple(dict.fromkeys(p for s in (self.asked, self.carried) for p in s[::2]))
        sides = (
            PartySides(parties.index(a), p, parties.index(b), q)
            for a, p, b, q in (self.asked, self.carried)
        )
        seen = Observation(self.place, TCP, next(sides), next(sides), state, sent, sent, ended)
        return FlowsFrame(parties=parties, seen=(seen,), is_table=is_table)


def same(node: str, place: int, sides: Sides) -> Hop:
    return Hop(node, place, sides, sides)


def virtual(port: int = 4000) -> list[Hop]:
    """app.1 on node1 asks web's virtual address, and web.1 on node2 answers."""
    carried = (APP, port, WEB, 80)
    return [Hop("n1", 2, (APP, port, VIRTUAL, 80), carried), same("n2", 2, carried)]


def mesh(port: int = 4000, host: tuple[str, Party] = ("n1", NODE1), changed: int = 0) -> list[Hop]:
    """A client asks a host's published port, and web.1 on node2 answers. `changed`: the port that
    the container's kernel gives the client, since another connection has that."""
    node, address = host
    carried = (CLIENT, port, WEB_IN, 80)
    there = (CLIENT, changed or port, WEB_IN, 80)
    return [Hop(node, 1, (CLIENT, port, address, 8080), carried), Hop("n2", 2, carried, there)]


def around(port: int = 4000) -> list[Hop]:
    """app.1 leaves node1 by the gateway and asks node2's published port; web.1 on node1 answers."""
    asked, masked = (APP_OUT, port, NODE2, 8080), (NODE1, port + 7, NODE2, 8080)
    carried = (NODE1, port + 7, WEB_IN, 80)
    return [
        same("n1", 2, asked), Hop("n1", 1, asked, masked), Hop("n2", 1, masked, carried), same("n1", 3, carried)
    ]  # fmt: skip


def plain(port: int = 4000) -> list[Hop]:
    carried = (CLIENT, port, PLAIN, 80)
    return [Hop("n1", 1, (CLIENT, port, NODE1, 9090), carried), same("n1", 4, carried)]


def joined(hops: Sequence[Hop]) -> list[Connection]:
    found = Joined()
    for hop in hops:
        found.add(hop.node, hop.frame())
    return [group.connection() for group in found]


def shown(connections: Sequence[Connection]) -> list[str]:
    rows = sorted(row(connection, NODES, each=True) for connection in connections)
    return [f"{one.source} > {one.target}:{one.port} by {one.way}" for one in rows]


KINDS = {
    virtual: "app.1 > web.1:80 by virtual address",
    mesh: "outside 203.0.113.9 > web.1:80 by mesh node1:8080",
    around: "app.1 > web.1:80 by mesh node2:8080",
    plain: "outside 203.0.113.9 > box@node1:80 by host port node1:9090",
}


@given(st.data())
def test_each_connection_is_there_once_in_whatever_order_nodes_tell(data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.sampled_from(list(KINDS)), max_size=6))
    hops = [hop for i, kind in enumerate(wanted) for hop in kind(4000 + 100 * i)]
    found = joined(data.draw(st.permutations(hops)))
    assert shown(found) == sorted(KINDS[kind] for kind in wanted)


@given(st.data())
def test_what_a_silent_node_does_not_tell_breaks_nothing(data: st.DataObject) -> None:
    """Any part of the observations gives each connection at most as often as it is observed, and
    names nobody who has no part in it."""
    kind = data.draw(st.sampled_from(list(KINDS)))
    hops = kind()
    some = data.draw(st.lists(st.sampled_from(hops), min_size=1, unique=True))
    found = joined(some)
    assert 1 <= len(found) <= len(some)
    named = {p for hop in hops for s in (hop.asked, hop.carried) for p in s[::2]}
    assert {end.party for c in found for end in (c.source, c.asked, c.target)} <= named


@given(st.permutations([*mesh(), *mesh(host=("n3", CLIENT), changed=50000)]))
def test_the_same_client_and_port_by_two_hosts_are_two_connections(hops: list[Hop]) -> None:
    assert len(joined(hops)) == 2


def test_the_same_local_address_on_two_nodes_is_not_the_same() -> None:
    sides = (PLAIN, 4000, CLIENT, 443)
    assert len(joined([same("n1", 1, sides), same("n2", 1, sides)])) == 2


def test_what_is_counted_most_counts_and_nothing_if_nobody_counts() -> None:
    first, second = virtual()
    found = Joined()
    found.add(first.node, first.frame("unanswered", Traffic(3, 300)))
    found.add(second.node, second.frame("open", Traffic(4, 200)))
    (connection,) = (group.connection() for group in found)
    assert (connection.state, connection.sent) == ("open", Traffic(4, 300))
    assert joined(virtual())[0].sent is None


def test_a_place_that_is_gone_takes_its_connections_along_and_room_is_bounded() -> None:
    found = Joined(most=2)
    for hop in (*virtual(), *virtual(5000)):
        found.add(hop.node, hop.frame())
    assert (len(list(found)), found.left_out) == (1, 2)
    for node in ("n1", "n2"):
        found.add(node, FlowsFrame(closed=(2,)))
    assert list(found) == []
    for hop in virtual(5000):
        found.add(hop.node, hop.frame())
    assert len(list(found)) == 1


# --- as text


def test_rows_are_counted_together_and_the_service_stands_for_its_tasks() -> None:
    connections = joined([*virtual(), *virtual(5000), *mesh(), *plain()])
    refused = connections[0]._replace(state="refused", sent=Traffic(1, 60))
    rows = together(row(c, NODES) for c in (*connections, refused))
    assert list(table(rows)) == [
        "SOURCE               TARGET     PORT    BY                    CONNECTIONS        SENT  RECEIVED",
        "app                  web        80/tcp  virtual address       2 open, 1 refused  60 B  -",
        "outside 203.0.113.9  box@node1  80/tcp  host port node1:9090  1 open             -     -",
        "outside 203.0.113.9  web        80/tcp  mesh node1:8080       1 open             -     -",
    ]
    assert json.loads(json.dumps(as_json(rows[0])))["States"] == {"open": 2, "refused": 1}


def test_a_connection_by_itself_has_its_task_and_addresses() -> None:
    (connection,) = joined(around())
    shown = each_json(connection, NODES)
    assert (shown["Source"], shown["Target"], shown["State"]) == ("app.1", "web.1", "open")
    assert shown["SourceAddress"] == "172.18.0.5:4000"
    assert shown["AskedAddress"] == "192.0.2.2:8080"
    assert shown["TargetAddress"] == "10.0.0.6:80"
    assert list(table([row(connection, NODES, each=True)], each=True))[1].split()[-3:] == [
        "open", "-", "-",
    ]  # fmt: skip
    assert way(joined([same("n1", 2, (APP, 4000, WEB, 80))])[0], NODES) == "direct"


def test_a_service_is_found_at_either_end() -> None:
    found = joined([*virtual(), *plain()])
    assert [is_of(c, "web") for c in found] == [True, False]
    assert [is_of(c, "app") for c in found] == [True, False]


def test_amounts() -> None:
    assert [octets(n) for n in (0, 999, 1000, 12_345, 9_990_000, 2e15)] == [
        "0 B", "999 B", "1.0 kB", "12 kB", "10.0 MB", "2000 TB",
    ]  # fmt: skip
    assert states({"refused": 2, "open": 1}) == "1 open, 2 refused"


# --- as they come and go


def told(changes: Changes, at: float) -> list[str]:
    return [f"{c.word} {row(c.connection, NODES, each=True).target}" for c in changes.due(at)]


def test_a_change_is_told_once_when_all_places_have_spoken() -> None:
    changes = Changes()
    first, second = virtual()
    changes.take(first.node, first.frame("unanswered"), 0.0)
    changes.take(second.node, second.frame("open"), 0.1)
    assert told(changes, 0.2) == []
    assert changes.pause(0.2) == PATIENCE - 0.2
    assert told(changes, 1.0) == ["open web.1"]
    assert changes.pause(1.0) is None
    for hop in (first, second):
        changes.take(hop.node, hop.frame("closing"), 2.0)
    assert told(changes, 3.0) == ["closing web.1"]
    for hop in (first, second):
        changes.take(hop.node, hop.frame("closing", ended=True), 120.0)
    assert told(changes, 121.0) == []
    assert list(changes.joined) == []
    changes.take(first.node, first.frame("unanswered"), 200.0)
    assert told(changes, 201.0) == ["unanswered web.1"]
    changes.take(first.node, first.frame("refused", ended=True), 202.0)
    assert told(changes, 203.0) == ["refused web.1"]


def test_what_was_over_before_is_not_told_and_what_ends_without_a_word_is() -> None:
    changes = Changes()
    (hop,) = virtual()[:1]
    changes.take(hop.node, hop.frame("closing", is_table=True), 0.0)
    assert told(changes, 1.0) == []
    other = virtual(5000)[0]
    changes.take(other.node, other.frame("open", is_table=True), 0.0)
    assert told(changes, 1.0) == ["open web.1"]
    changes.take("n1", FlowsFrame(closed=(2,)), 2.0)
    assert told(changes, 3.0) == ["ended web.1"]


def test_a_table_that_is_read_again_under_another_number_changes_nothing() -> None:
    changes = Changes()
    hop = virtual()[0]
    changes.take(hop.node, hop.frame("open", is_table=True), 0.0)
    assert told(changes, 1.0) == ["open web.1"]
    changes.take(hop.node, hop._replace(place=9).frame("open", is_table=True), 30.0)
    changes.take(hop.node, FlowsFrame(closed=(2,)), 30.0)
    assert told(changes, 31.0) == []
    assert len(list(changes.joined)) == 1
