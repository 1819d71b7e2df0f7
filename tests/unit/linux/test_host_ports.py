"""A port that a program of this host has, and one that is free again."""

import socket

import pytest

from weft.errors import OperationFailed
from weft.linux.host_ports import check_free

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_that_a_program_has_is_not_free(protocol: str, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, KINDS[protocol]) as program:
        program.bind((address, 0))
        if protocol == "tcp":
            program.listen()
        port = program.getsockname()[1]
        with pytest.raises(OperationFailed) as said:
            check_free(protocol, port)  # type: ignore[arg-type]
        assert str(said.value) == (
            f"failed to bind host port for 0.0.0.0:{port}/{protocol}: address already in use"
        )
    check_free(protocol, port)  # type: ignore[arg-type]


def test_connections_that_linger_after_a_program_do_not_hold_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as program:
        port = program.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = program.accept()
            accepted.close()  # first: the program's side lingers
            assert client.recv(1) == b""
    check_free("tcp", port)


def test_a_protocol_that_the_kernel_has_not_is_free() -> None:
    check_free("sctp", 65000)
