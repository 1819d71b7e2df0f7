"""A network namespace without a name that ends with the test, and its netlink socket."""

import functools
import os
import subprocess

from weft.linux import netns
from weft.linux.netlink import link
from weft.linux.netlink.socket import NetlinkSocket


def in_throwaway(function):
    """The test runs in a namespace of its own, and so does every command it starts."""

    @functools.wraps(function)
    def test(*arguments, **named):
        netns.run_in_throwaway(lambda: function(*arguments, **named))

    return test


def sh(command):
    subprocess.run(command, shell=True, check=True, capture_output=True)


class Here:
    """The namespace's netlink socket, and a descriptor of the namespace."""

    def __init__(self):
        self.socket = NetlinkSocket()
        self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.do(link.loopback_up())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        os.close(self.descriptor)

    def do(self, *requests):
        assert self.socket.execute(requests) == {}

    def index(self, name):
        return link.decode_link(self.socket.ask(link.get_link(name))).device

    def all(self, request, decode):
        return [decode(body) for body in self.socket.dump(*request)]

    def links(self):
        return {info.name: info for info in self.all(link.dump_links(), link.decode_link)}
