"""Decoding of requests: every number has bounds, every refusal a name, and no body takes long."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from tests.support.compatibility_page import structs, wires
from weft.api.schema.container import ExecStartWire, ExecWire
from weft.api.schema.decoding import MAX_VALUES, decode
from weft.api.schema.keys import KeysWire
from weft.api.schema.network import NetworkWire
from weft.api.schema.node import NodeWire
from weft.api.schema.service_wire import ServiceWire
from weft.api.schema.swarm import InitWire, SpecWire
from weft.errors import SHOWN, InvalidArgument, Unsupported


def numbers(
    type_: inspect.Type, path: str
) -> Iterator[tuple[str, inspect.IntType | inspect.FloatType]]:
    """The numbers in a type, but for those of a struct in it, which is looked at itself."""
    if isinstance(type_, inspect.IntType | inspect.FloatType):
        yield path, type_
    elif isinstance(type_, inspect.UnionType):
        for one in type_.types:
            yield from numbers(one, path)
    elif isinstance(type_, inspect.TupleType):
        for one in type_.item_types:
            yield from numbers(one, path)
    elif isinstance(type_, inspect.VarTupleType | inspect.ListType):
        yield from numbers(type_.item_type, path)
    elif isinstance(type_, inspect.DictType):
        yield from numbers(type_.value_type, path)


def test_every_number_of_a_request_has_both_ends() -> None:
    found = 0
    for wire in wires():
        shape = inspect.type_info(wire)
        assert isinstance(shape, inspect.StructType)
        for field in shape.fields:
            for path, number in numbers(field.type, f"{wire.__name__}.{field.name}"):
                found += 1
                assert number.ge is not None, (
                    f"{path} has no least value: use Count, Signed or Short"
                )
                assert number.le is not None, (
                    f"{path} has no greatest value: use Count, Signed or Short"
                )
                assert -(2**63) <= number.ge <= number.le < 2**63, path
    assert found > 20


@pytest.mark.parametrize(
    ("type_", "body", "text"),
    [
        (
            KeysWire,
            b'{"Every": 1000000000000000000000000000000}',
            "$.Every`: 1000000000000000000000000000000",
        ),
        (KeysWire, b'{"Every": 9223372036854775808}', "$.Every`: 9223372036854775808"),
        (KeysWire, b'{"Every": -1}', "$.Every`: -1"),
        (KeysWire, b'{"Every": 1e400}', "$.Every`: inf"),
        (KeysWire, b'{"Every": 1.5}', "$.Every`: 1.5"),
        (KeysWire, b'{"Every": "12h"}', "$.Every`: '12h'"),
        (KeysWire, b'{"every": true}', "$.Every`: True"),
        (KeysWire, b'{"Every": NaN}', "invalid character"),
        (KeysWire, b'{"Every": 1' + b"0" * 5000 + b"}", "out of range"),
        (
            ServiceWire,
            b'{"UpdateConfig": {"MaxFailureRatio": 1e400}}',
            "$.UpdateConfig.MaxFailureRatio`: inf",
        ),
        (
            ServiceWire,
            (
                b'{"TaskTemplate": {"ContainerSpec": {"Ulimits": [{"Name": "a"}, {"Name": "a",'
                b' "Hard": 18446744073709551616}]}}}'
            ),
            "$.TaskTemplate.ContainerSpec.Ulimits[1].Hard`: 18446744073709551616",
        ),
        (
            ServiceWire,
            b'{"TaskTemplate": {"Networks": [' + b'{"Target": "a"},' * 256 + b'{"Target": "a"}]}}',
            "length <= 256 - at",
        ),
        (NetworkWire, b'{"IPAM": {"Config": [' + b"{}," * 64 + b"{}]}}", "$.IPAM.Config`"),
        (InitWire, b'{"DefaultAddrPool": [' + b'"",' * 64 + b'""]}', "$.DefaultAddrPool`"),
        (ServiceWire, b'{"Labels": {"a": 5}}', "$.Labels[...]`"),
        (ServiceWire, b'{"Name": {"a": 5}}', "$.Name`"),
        (ServiceWire, b'{"Name": "\\ud800"}', "invalid JSON"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_value(
    type_: type[Any], body: bytes, text: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        decode(body, type_)
    assert text in str(raised.value)


def test_long_values_are_cut() -> None:
    with pytest.raises(InvalidArgument) as wrong:
        decode(b'{"TaskTemplate": "' + b"a" * 100_000 + b'"}', ServiceWire)
    assert len(str(wrong.value)) < 2 * SHOWN


def test_more_values_than_anybody_needs_are_refused() -> None:
    for fields in (
        {"Labels": {str(i): "" for i in range(MAX_VALUES)}},
        {"TaskTemplate": {"ContainerSpec": {"Args": ["a"] * MAX_VALUES}}},
    ):
        with pytest.raises(InvalidArgument, match=f"more than {MAX_VALUES} values"):
            decode(msgspec.json.encode(fields), ServiceWire)
    ports = [
        {"Protocol": "tcp", "TargetPort": i, "PublishedPort": i, "PublishMode": "ingress"}
        for i in range(1, 10_000)
    ]
    wire = decode(msgspec.json.encode({"EndpointSpec": {"Ports": ports}}), ServiceWire)
    assert wire.endpoint_spec is not None
    assert len(wire.endpoint_spec.ports) == 9_999


def test_what_has_no_place_says_something_however_deep_it_is() -> None:
    nested = b'{"TaskTemplate": {"PluginSpec": ' + b'{"a": ' * 900 + b"%d" + b"}" * 900 + b"}}"
    assert decode(nested % 0, ServiceWire) == ServiceWire()
    with pytest.raises(Unsupported, match=r"^TaskTemplate.PluginSpec is not supported"):
        decode(nested % 1, ServiceWire)
    with pytest.raises(InvalidArgument, match="recursion"):
        decode(b"[" * 500_000, ServiceWire)


RECORDED = json.loads((Path(__file__).parent / "recorded" / "request-fields.json").read_text())
"""Fields of the requests' bodies in version 1.55 of the API, as its specification and Docker's Go
types name them."""


@pytest.mark.parametrize("name", RECORDED)
def test_each_field_of_the_api_is_taken_or_refused(name: str) -> None:
    wire = next(one for one in wires() if one.__name__ == name)
    for path, struct in structs(wire):
        known = set(RECORDED[name].get(path, "").split())
        has = {field.encode_name for field in msgspec.structs.fields(struct)}
        lacks = set(struct.lacks)
        assert not has & lacks, f"{struct.__name__} has and lacks {has & lacks}"
        assert has | lacks == known, f"{name} {path}: {sorted((has | lacks) ^ known)}"


@pytest.mark.parametrize(
    ("type_", "sent", "read"),
    [
        (
            ServiceWire,
            {"Name": "a", "version": 7, "rollback": "previous", "authconfig": {"key": "x"}},
            ServiceWire(name="a"),
        ),
        (NodeWire, {"Role": "worker", "version": 7, "id": "x"}, NodeWire(role="worker")),
        (
            SpecWire,
            {"version": 7, "rotateWorkerToken": True, "Labels": {"a": "b"}},
            SpecWire(labels={"a": "b"}),
        ),
        (
            ExecStartWire,
            {"hijack": True, "stdin": True, "abortSignal": {"aborted": False}, "Tty": True},
            ExecStartWire(tty=True),
        ),
        (ExecWire, {"Container": "x", "Cmd": ["a"]}, ExecWire(cmd=("a",))),
        (NetworkWire, {"Name": "n", "Nonsense": [1]}, NetworkWire(name="n")),
    ],
)
def test_a_field_that_the_api_does_not_have_is_ignored(
    type_: type[Any], sent: dict[str, Any], read: Any
) -> None:
    assert decode(msgspec.json.encode(sent), type_) == read


def test_a_field_that_weft_lacks_is_refused_in_any_case() -> None:
    for field in ("TaskDefaults", "taskdefaults"):
        with pytest.raises(Unsupported, match=r"^TaskDefaults is not supported by Weft$"):
            decode(msgspec.json.encode({field: {"LogDriver": {"Name": "x"}}}), SpecWire)


@pytest.mark.parametrize(
    ("type_", "body", "text"),
    [
        (
            ServiceWire,
            {"EndpointSpec": {"Mode": "odd"}},
            'invalid value "odd" for EndpointSpec.Mode',
        ),
        (
            ServiceWire,
            {"EndpointSpec": {"Ports": [{}, {"Protocol": "icmp"}]}},
            'invalid value "icmp" for EndpointSpec.Ports[1].Protocol',
        ),
        (InitWire, {"Availability": "it's odd"}, 'invalid value "it\'s odd" for Availability'),
    ],
)
def test_a_value_that_a_field_may_not_have_is_named_and_the_json_not_blamed(
    type_: type[Any], body: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        decode(json.dumps(body).encode(), type_)
    assert str(raised.value) == text
