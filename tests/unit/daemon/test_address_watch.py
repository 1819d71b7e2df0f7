"""A host that loses its address while the daemon runs says so once, and once that it is back."""

import logging

import pytest

from weft.daemon.address_watch import AddressWatch
from weft.linux.host import NoSuchAddress


def test_the_loss_of_the_address_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    has = True
    caplog.set_level(logging.INFO)

    def check() -> None:
        if not has:
            raise NoSuchAddress("cannot use address 192.0.2.1: no interface has it")

    watch = AddressWatch(check)
    watch.look()
    assert (watch.lost, caplog.messages) == ("", [])
    has = False
    watch.look()
    watch.look()
    assert "the swarm knows this node by it" in watch.lost
    assert "docker swarm leave --force, and join again" in watch.lost
    [said] = caplog.messages
    assert said == f"swarm.address_lost cause={watch.lost}"
    has = True
    watch.look()
    watch.look()
    assert watch.lost == ""
    assert caplog.messages[1:] == ["swarm.address_back"]
