"""Counters of a network namespace."""

import os
import socket
from pathlib import Path

from weft.linux.counters import accepted

SNMP = """Ip: Forwarding DefaultTTL
Ip: 1 64
Tcp: RtoAlgorithm ActiveOpens PassiveOpens
Tcp: 1 7 42
"""


def test_accepted_connections_are_counted() -> None:
    before = accepted(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()):
            server.accept()[0].close()
    assert accepted(os.getpid()) > before


def test_a_process_that_is_gone_has_accepted_nothing(tmp_path: Path) -> None:
    (tmp_path / "7" / "net").mkdir(parents=True)
    (tmp_path / "7" / "net" / "snmp").write_text(SNMP)
    assert [accepted(pid, tmp_path) for pid in (7, 8, 0)] == [42, 0, 0]
