"""Requests to begin and to join a swarm: addresses have one form behind the border, whatever the
user wrote."""

import json
from ipaddress import IPv4Network
from typing import Any

import pytest

from weft.api.schema.decoding import decode
from weft.api.schema.swarm import (
    InitWire,
    JoinWire,
    SpecWire,
    init_from,
    join_from,
    spec_from,
)
from weft.errors import InvalidArgument, Unsupported
from weft.manager.bootstrap import validate
from weft.model.cluster import RaftSettings


def init(**fields: Any) -> Any:
    return init_from(decode(json.dumps(fields).encode(), InitWire))


def join(**fields: Any) -> Any:
    return join_from(
        decode(json.dumps({"JoinToken": "t", "RemoteAddrs": ["a"]} | fields).encode(), JoinWire)
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", "0.0.0.0:2377"), ("0.0.0.0:2377", "0.0.0.0:2377"), ("10.0.0.1", "10.0.0.1:2377"),
        (":99", "0.0.0.0:99"), ("10.0.0.1:1", "10.0.0.1:1"), ("eth0:2377", "eth0:2377"), ("lo", "lo:2377"),
    ],
)  # fmt: skip
def test_addresses_to_listen_at(text: str, address: str) -> None:
    assert init(ListenAddr=text).listen_address == address
    assert join(ListenAddr=text).listen_address == address


@pytest.mark.parametrize(
    "text",
    [
        "no/sense",
        "10.0.0.1:",
        "10.0.0.1:x",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "1:2:3",
        "a b:2377",
        "10.0.0.1:" + "9" * 5000,
    ],
)
def test_what_nobody_can_listen_at_is_refused(text: str) -> None:
    for read in (init, join):
        with pytest.raises(InvalidArgument, match="invalid ListenAddr"):
            read(ListenAddr=text)


def test_managers_to_join() -> None:
    assert join(RemoteAddrs=["10.0.0.1", "a.b:99"]).remote_addresses == ("10.0.0.1:2377", "a.b:99")
    for text in ("", ":1", "a/b", "a@b", "a b", "a:x", "a:0", "a" * 300, "[::1]:1"):
        with pytest.raises(InvalidArgument, match="invalid RemoteAddrs"):
            join(RemoteAddrs=[text])


def test_what_a_new_swarm_may_be() -> None:
    validate(
        init(DefaultAddrPool=["10.0.0.0/8", "172.16.0.0/12"], SubnetSize=29, DataPathPort=1024)
    )
    assert init(DefaultAddrPool=["10.0.0.0/8"]).default_pool == (IPv4Network("10.0.0.0/8"),)
    for fields, text in (
        ({"SubnetSize": 30}, "subnet size 30 is longer than 29 bits"),
        ({"SubnetSize": 7}, "address pool 10.0.0.0/8 is smaller than one subnet of /7"),
        ({"DefaultAddrPool": ["10.0.0.0/25"]}, "smaller than one subnet of /24"),
        ({"DefaultAddrPool": ["0.0.0.0/0"]}, "is not a range for hosts"),
        ({"DefaultAddrPool": ["224.0.0.0/8"]}, "is not a range for hosts"),
        ({"DefaultAddrPool": ["10.0.0.0/8", "10.1.0.0/16"]}, "overlaps with"),
        ({"Spec": {"Dispatcher": {"HeartbeatPeriod": 1}}}, "HeartbeatPeriod: 1 ns"),
        (
            {"Spec": {"CAConfig": {"NodeCertExpiry": 1}}},
            "minimum certificate expiry time must be 1h0m0s",
        ),
        ({"DataPathPort": 1023}, "data path port 1023"),
        ({"DataPathPort": 49152}, "data path port 49152"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            validate(init(**fields))


def test_settings_of_snapshots_are_kept_and_ticks_cannot_be_changed() -> None:
    wanted = {"SnapshotInterval": 77, "KeepOldSnapshots": 2, "LogEntriesForSlowFollowers": 9}
    spec = init(Spec={"Raft": wanted}).spec
    assert spec.raft == RaftSettings(77, 2, 9)
    wire = decode(b'{"Raft": {"KeepOldSnapshots": 0, "ElectionTick": 10}}', SpecWire)
    assert spec_from(wire, spec).raft == RaftSettings(77, 0, 9)
    assert spec_from(decode(b"{}", SpecWire), spec).raft == spec.raft
    with pytest.raises(Unsupported, match="Raft.ElectionTick: 5 is not supported"):
        init(Spec={"Raft": {"ElectionTick": 5}})
