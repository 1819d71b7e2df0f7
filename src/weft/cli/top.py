"""`weft top`: what services, tasks and nodes carry now, through the API of a manager."""

import json
import queue
from collections.abc import Iterator
from contextlib import closing, suppress

import click
import msgspec

from weft.api.client import Api
from weft.cli import looking, terminal
from weft.cli.keys import socket_path
from weft.errors import InvalidArgument, WeftError
from weft.lens.flows.rows import Names
from weft.lens.top.rates import SORTS, Board
from weft.lens.top.screen import View, as_json, fitted, lines
from weft.model.look import LookBegun, LookEvent, NodeSaid, NodeSilent
from weft.model.meta import SECOND
from weft.model.top import TopFrame

WAITING = 64
"""Events that wait while the screen is drawn."""
MOMENT = 0.1
"""Seconds between looks at the keyboard, the size of the terminal, and what has come."""


class Table:
    """What the nodes have said, and how it is shown."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.board = Board()
        self.names = Names()
        self.typed: str | None = None
        """The filter that is being written."""

    def read(self, event: LookEvent) -> None:
        match event:
            case LookBegun(nodes=nodes):
                self.names = Names(nodes)
            case NodeSaid(node, frame) if isinstance(frame, TopFrame):
                self.board.take(node, frame)
            case NodeSilent(node, cause):
                self.board.lose(node, cause)

    def lines(self, live: bool = False) -> list[str]:
        found = lines(self.board, self.names, self.view, live)
        if self.typed is not None:
            found[1] = f"filter: {self.typed}_"
        return found

    def press(self, key: str) -> bool:
        """False if that was the last."""
        if self.typed is not None:
            self._type(key)
            return True
        match key:
            case "q":
                return False
            case "s":
                following = SORTS[(SORTS.index(self.view.sort) + 1) % len(SORTS)]
                self.view = msgspec.structs.replace(self.view, sort=following)
            case "t":
                self.view = msgspec.structs.replace(self.view, tasks=not self.view.tasks)
            case "/":
                self.typed = ""
        return True

    def _type(self, key: str) -> None:
        typed = self.typed or ""
        if key in "\r\n":
            self.view = msgspec.structs.replace(self.view, filter=typed)
            self.typed = None
        elif key == "\x1b":
            self.typed = None
        elif key in "\x7f\b":
            self.typed = typed[:-1]
        elif key.isprintable():
            self.typed = typed + key


@click.command("top")
@click.option("--once", is_flag=True, help="Print one table, of one second, and end.")
@click.option("--sort", type=click.Choice(SORTS), default=SORTS[0], show_default=True)
@click.option(
    "--filter",
    "wanted",
    default="",
    metavar="TEXT",
    help="Only services, tasks and nodes with this in their names.",
)
@click.option("--tasks", is_flag=True, help="Tasks instead of services.")
@click.option(
    "--every",
    type=click.FloatRange(1, 60),
    default=2.0,
    show_default=True,
    help="Seconds between two readings.",
)
@click.option("--json", "as_json_", is_flag=True, help="One table for programs; with --once.")
def command(
    once: bool, sort: str, wanted: str, tasks: bool, every: float, as_json_: bool
) -> None:  # fmt: skip
    """Show what services, tasks and nodes carry now, and what goes wrong.

    All numbers are for a second, but for open connections. Keys: q quits, s sorts by another column,
    t shows tasks or services, / asks for a filter.
    """
    if as_json_ and not once:
        raise InvalidArgument("--json needs --once")
    if not once and not terminal.is_there():
        raise InvalidArgument("there is no terminal: use --once")
    table = Table(View(sort=sort, filter=wanted, tasks=tasks))
    body = {"Every": int(every * SECOND), "Once": once}
    with closing(Api(socket_path(), 30).stream("/weft/top", body)) as answer:
        events = looking.events(answer)
        if once:
            for event in events:
                table.read(event)
            click.echo(
                json.dumps(as_json(table.board, table.names, table.view), indent=2)
                if as_json_
                else "\n".join(table.lines())
            )
        else:
            with suppress(KeyboardInterrupt):
                _live(events, table)


def _live(events: Iterator[LookEvent], table: Table) -> None:
    waiting = looking.in_background(events, WAITING)
    with terminal.screen() as screen:
        drawn: list[str] = []
        while not screen.is_over:
            for key in screen.keys(MOMENT):
                if not table.press(key):
                    return
            for event in _waiting(waiting):
                table.read(event)
            width, height = screen.size
            wanted = fitted(table.lines(live=True), width, height)
            if wanted != drawn:
                screen.draw(wanted)
                drawn = wanted


def _waiting(events: looking.Waiting) -> Iterator[LookEvent]:
    """What has come. Raises the error that ends it."""
    with suppress(queue.Empty):
        while True:
            event = events.get_nowait()
            if isinstance(event, WeftError):
                raise event
            if event is not None:
                yield event
