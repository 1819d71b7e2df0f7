"""`weft capture`: the packets of a network, service or task, from all its nodes, through the API of
a manager."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType
from typing import Generic, Protocol, TypeVar

import click

from weft import VERSION
from weft.api.client import Api
from weft.cli.event_stream import enough, received
from weft.cli.keys import socket_path
from weft.errors import OperationFailed, cause_of
from weft.lens.capture.filters import compiled
from weft.lens.capture.lines import Seen, line, read
from weft.lens.capture.order import Order, Timed
from weft.lens.capture.pcapng import Writer
from weft.model.capture import (
    MAX_PACKET,
    CaptureEvent,
    CaptureFailed,
    CaptureNames,
    NodeGone,
    NodePackets,
)
from weft.model.meta import Nanoseconds

LINGER = 30.0
"""Seconds that an interrupted capture waits for what nodes have seen."""
COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")


T = TypeVar("T")


class Output(Protocol[T]):
    """`T` is what an output makes of a packet, before it is the packet's turn."""

    def names(self, names: tuple[tuple[str, str], ...]) -> None: ...

    def read(self, place: str, data: bytes, ahead: Nanoseconds) -> Sequence[Timed[T]]: ...

    def write(self, packets: Sequence[Timed[T]]) -> None: ...

    def flush(self) -> None: ...

    def lost(self, place: str, packets: int, time: int) -> None: ...


class Lines:
    """A line for each packet; on a terminal, each place has a colour."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._places: dict[str, int] = {}

    def names(self, names: tuple[tuple[str, str], ...]) -> None:
        self._names = dict(names)

    def read(self, place: str, data: bytes, ahead: Nanoseconds) -> Sequence[Timed[Seen]]:
        return read(place, data, ahead)

    def write(self, packets: Sequence[Timed[Seen]]) -> None:
        for seen_at, packet in packets:
            number = self._places.setdefault(packet[0], len(self._places))
            text = line(seen_at, packet, self._names)
            click.echo(click.style(text, fg=COLOURS[number % len(COLOURS)]))

    def flush(self) -> None:
        sys.stdout.flush()

    def lost(self, place: str, packets: int, time: int) -> None:
        """Said at the end, as for a file."""


class Session(Generic[T]):
    """One capture, from its events to its output."""

    def __init__(self, output: Output[T], most: int | None) -> None:
        self._output = output
        self._left = most
        self._order = Order(output.read)
        self._dropped: Counter[str] = Counter()
        self._taken = 0
        self._latest = 0
        self._nodes: set[str] = set()
        """Those that tell what they see."""
        self._end: Nanoseconds | None = None
        """When the user interrupted."""

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ends the capture when the nodes have told what they had seen; the second time, at
        once."""
        if self._end is not None or not self._nodes:
            raise KeyboardInterrupt
        self._end = time.time_ns()
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, LINGER)

    def run(self, events: Iterator[CaptureEvent]) -> None:
        """Until the events end, `most` packets were seen, or the user interrupts."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.interrupt)
        try:
            for event in events:
                if not self._take(event):
                    break
            self._write(self._order.rest())
        except KeyboardInterrupt:
            self._write(self._order.rest())
        finally:
            self._close()

    def _take(self, event: CaptureEvent) -> bool:
        match event:
            case CaptureNames(names):
                self._output.names(names)
            case NodeGone(node, cause):
                self._nodes.discard(node)
                self._order.forget(node)
                click.echo(f"weft: {node}: no more packets: {cause}", err=True)
            case CaptureFailed(cause):
                raise OperationFailed(cause)
            case NodePackets(node, _, frame):
                for _, name in frame.opened:
                    click.echo(f"weft: watching {node}/{name}", err=True)
                for text in frame.failed:
                    click.echo(f"weft: {node}: cannot watch {text}", err=True)
                self._nodes.add(node)
                goes_on = self._write(self._order.add(event))
                for number, lost in frame.dropped:
                    self._dropped[self._order.place(node, number)] += lost
                return goes_on and not self._is_over()
        return True

    def _is_over(self) -> bool:
        return self._end is not None and self._order.has_told(self._end)

    def _write(self, packets: Sequence[Timed[T]]) -> bool:
        """False if these were enough."""
        packets = packets[: self._left]
        if packets:
            self._output.write(packets)
            self._taken += len(packets)
            self._latest = packets[-1][0]
        if self._left is not None:
            self._left -= len(packets)
        self._output.flush()
        return self._left != 0

    def _close(self) -> None:
        for place, lost in self._dropped.items():
            self._output.lost(place, lost, self._latest)
            click.echo(f"weft: {place}: {lost} packets dropped", err=True)
        self._output.flush()
        click.echo(f"weft: {self._taken} packets", err=True)


@click.command("capture")
@click.argument("name", metavar="NETWORK|SERVICE|TASK")
@click.option("-w", "--write", "path", metavar="FILE", help="Write pcapng; - is standard output.")
@click.option(
    "--filter", "expression", default="", metavar="EXPR", help="As tcpdump's, `tcp port 80`."
)
@click.option("-c", "--count", type=click.IntRange(1), help="End after so many packets.")
@click.option(
    "-s", "--snaplen", type=click.IntRange(64, MAX_PACKET), default=MAX_PACKET,
    help="Bytes to keep of each packet.",
)  # fmt: skip
@click.option("--underlay", is_flag=True, help="Also the packets between the hosts: VXLAN, ESP.")
def command(
    name: str, path: str | None, expression: str, count: int | None, snaplen: int, underlay: bool
) -> None:
    """Watch the packets of a network, service or task on all its nodes.

    Without -w, a line is shown for each packet. Packets of encrypted networks are seen in clear,
    before they are sealed; --underlay shows what leaves the hosts.
    """
    body = {"Name": name, "Underlay": underlay, "Filter": compiled(expression, snaplen)}
    with ExitStack() as opened:
        answer = opened.enter_context(closing(Api(socket_path(), 30).stream("/weft/capture", body)))
        events = received(answer, CaptureEvent, "the capture")
        with enough():
            if path is None:
                Session(Lines(), count).run(events)
            else:
                Session(_file(path, snaplen, opened), count).run(events)


def _file(path: str, snaplen: int, opened: ExitStack) -> Writer:
    """Raises `OperationFailed`."""
    if path == "-":
        return Writer(sys.stdout.buffer, f"weft {VERSION}", snaplen)
    try:
        return Writer(opened.enter_context(Path(path).open("wb")), f"weft {VERSION}", snaplen)
    except OSError as error:
        raise OperationFailed(f"cannot write {path}: {cause_of(error)}") from error
