"""`weft flows`: who talks to whom, through the API of a manager."""

import json
import queue
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import click

from weft.api.client import Api
from weft.cli import looking
from weft.cli.event_stream import enough
from weft.cli.keys import socket_path
from weft.errors import WeftError
from weft.lens.flows.changes import Change, Changes
from weft.lens.flows.joined import Connection, Joined
from weft.lens.flows.rows import (
    Names,
    amount,
    as_json,
    each_json,
    is_of,
    port,
    row,
    table,
    together,
)
from weft.model.flows import FlowsFrame
from weft.model.look import LookBegun, LookEvent, NodeSaid, NodeSilent

WAITING = 64
"""Events that wait while lines are written."""


class Reader:
    """What the nodes have said, apart from connections."""

    def __init__(self, take: Callable[[str, FlowsFrame], object]) -> None:
        self.names = Names()
        self.service = ""
        self.silent: list[NodeSilent] = []
        self._take = take
        self._uncounted: set[str] = set()
        self._left_out: set[str] = set()

    def read(self, event: LookEvent) -> None:
        match event:
            case LookBegun(nodes=nodes, service=service):
                self.names, self.service = Names(nodes), service
            case NodeSilent(node):
                self.silent.append(event)
                looking.say_silent(self.names.node(node), event)
            case NodeSaid(node, frame) if isinstance(frame, FlowsFrame):
                self._take(node, frame)
                self._remark(self.names.node(node), frame)

    def wants(self, connection: Connection) -> bool:
        return not self.service or is_of(connection, self.service)

    def _remark(self, hostname: str, frame: FlowsFrame) -> None:
        for text in frame.failed:
            click.echo(f"weft: {hostname}: cannot read {text}", err=True)
        if frame.lost:
            click.echo(f"weft: {hostname}: some changes were missed", err=True)
        if frame.uncounted:
            self._uncounted.add(hostname)
        if frame.left_out:
            self._left_out.add(hostname)

    def say(self, left_out: int) -> None:
        """What the reader of the table should know."""
        if self._left_out or left_out:
            names = ", ".join(sorted(self._left_out))
            click.echo(
                f"weft: there are more connections than are shown {names}".rstrip(), err=True
            )
        if self._uncounted:
            click.echo(
                "weft: bytes are not counted everywhere on"
                f" {', '.join(sorted(self._uncounted))} (nf_conntrack_acct is off)",
                err=True,
            )


@click.command("flows")
@click.option("--follow", "-f", is_flag=True, help="Show connections as they come and go.")
@click.option("--service", default="", metavar="SERVICE", help="Only connections of this service.")
@click.option("--each", is_flag=True, help="Each connection by itself, with tasks.")
@click.option("--json", "as_json_", is_flag=True, help="For programs; a line each with --follow.")
def command(follow: bool, service: str, each: bool, as_json_: bool) -> None:
    """Show who talks to whom: connections between services, and from outside.

    Read from the connection tracking of every host, each connection once. Nothing is sent into the
    network and nothing is changed. A host that does not answer is named, and the others are shown.
    """
    body = {"Service": service, "Follow": follow}
    with closing(Api(socket_path(), 30).stream("/weft/flows", body)) as answer:
        with enough():
            if follow:
                _follow(looking.events(answer), as_json_)
            else:
                _once(looking.events(answer), each, as_json_)


def _once(events: Iterator[LookEvent], each: bool, as_json_: bool) -> None:
    joined = Joined()
    reader = Reader(joined.add)
    for event in events:
        reader.read(event)
    found = [c for c in (group.connection() for group in joined) if reader.wants(c)]
    rows = [row(connection, reader.names, each) for connection in found]
    if as_json_:
        shown = (
            [each_json(connection, reader.names) for connection in found]
            if each
            else [as_json(one) for one in together(rows)]
        )
        silent = [{"Node": reader.names.node(s.node), "Cause": s.cause} for s in reader.silent]
        click.echo(json.dumps({"Flows": shown, "Silent": silent}, indent=2))
    else:
        for line in table(sorted(rows) if each else together(rows), each):
            click.echo(line)
    reader.say(joined.left_out)


def _follow(events: Iterator[LookEvent], as_json_: bool) -> None:
    changes = Changes()
    reader = Reader(lambda node, frame: changes.take(node, frame, time.monotonic()))
    waiting = looking.in_background(events, WAITING)
    while True:
        with suppress(queue.Empty):
            event = waiting.get(timeout=changes.pause(time.monotonic()))
            if event is None:
                return
            if isinstance(event, WeftError):
                raise event
            reader.read(event)
        for change in changes.due(time.monotonic()):
            if reader.wants(change.connection):
                click.echo(_line(change, reader.names, as_json_))
        sys.stdout.flush()


def _line(change: Change, names: Names, as_json_: bool) -> str:
    now = time.time()
    if as_json_:
        found = {"Time": now, "Change": change.word, **each_json(change.connection, names)}
        return json.dumps(found)
    one = row(change.connection, names, each=True)
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    word = {"closing": "closed"}.get(change.word, change.word)
    carried = ""
    if one.sent is not None and one.received is not None:
        carried = f"  {amount(one.sent)} sent, {amount(one.received)} received"
    return f"{clock} {word:10} {one.source} > {one.target} {port(one)} by {one.way}{carried}"
