"""A network namespace without a name that ends with the test, and its netlink socket."""

import functools
import os
import subprocess
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from weft.linux import netns
from weft.linux.netlink import link
from weft.linux.netlink.message import Request
from weft.linux.netlink.socket import NetlinkSocket

P = ParamSpec("P")
T = TypeVar("T")


def in_throwaway(function: Callable[P, None]) -> Callable[P, None]:
    """The test runs in a namespace of its own, and so does every command it starts."""

    @functools.wraps(function)
    def test(*arguments: P.args, **named: P.kwargs) -> None:
        netns.run_in_throwaway(lambda: function(*arguments, **named))

    return test


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True, capture_output=True)


class Here:
    """The namespace's netlink socket, and a descriptor of the namespace."""

    def __init__(self) -> None:
        self.socket = NetlinkSocket()
        self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.do(link.loopback_up())

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        os.close(self.descriptor)

    def do(self, *requests: Request) -> None:
        assert self.socket.execute(requests) == {}

    def index(self, name: str) -> int:
        return link.decode_link(self.socket.ask(link.get_link(name))).device

    def all(self, request: tuple[int, bytes], decode: Callable[[bytes], T]) -> list[T]:
        return [decode(body) for body in self.socket.dump(*request)]

    def links(self) -> dict[str, link.LinkInfo]:
        return {info.name: info for info in self.all(link.dump_links(), link.decode_link)}
