"""Connections that others hold are ended in the real kernel, on loopback."""

import os
import socket
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest

from weft.linux.connections import end_accepted

OWN, OTHER = "127.0.0.61", "127.0.0.62"

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def pair(stack: ExitStack, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = stack.enter_context(socket.create_connection(server.getsockname(), timeout=5))
    accepted, _ = server.accept()
    return client, stack.enter_context(accepted)


def is_open(ends: tuple[socket.socket, socket.socket]) -> bool:
    sender, receiver = ends
    try:
        sender.sendall(b"x")
        return receiver.recv(1) == b"x"
    except OSError:
        return False


def test_what_was_made_to_one_port_is_ended_and_nothing_else() -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((OWN, 0)))
        port = server.getsockname()[1]
        external_etcd = stack.enter_context(socket.create_server((OTHER, port)))
        beside = stack.enter_context(socket.create_server((OWN, 0)))
        ended = [pair(stack, server) for _ in range(3)]
        kept = [pair(stack, external_etcd), pair(stack, beside)]
        # Nobody has accepted it yet.
        waiting = stack.enter_context(socket.create_connection((OWN, port), timeout=5))
        assert all(map(is_open, ended + kept))

        assert end_accepted(IPv4Address(OWN), port) == 4
        assert not any(is_open(ends) for ends in ended)
        assert not any(is_open((accepted, client)) for client, accepted in ended)
        with pytest.raises(OSError):
            waiting.recv(1)
        assert all(map(is_open, kept))
        assert end_accepted(IPv4Address(OWN), port) == 0
        server.accept()[0].close()  # the one that was waiting, and is over
        assert is_open(pair(stack, server)), "it listens as before"
