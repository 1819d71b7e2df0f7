"""The server itself, spoken to in plain HTTP: the socket, versions, headers, errors, and what is no
request."""

import asyncio
import gc
import json
import logging
import re
import socket
import stat
import zlib
from collections import Counter
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.support.fake_images import IMAGE
from tests.support.whole_node import WholeNode, asked_for
from tests.unit.api.served import serving
from weft.api.routes import ROUTES
from weft.api.server import ApiServer
from weft.errors import Conflict
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec


def test_the_socket_is_roots_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "run" / "docker.sock"
        async with serving(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert [entry.name for entry in path.parent.iterdir()] == ["docker.sock"]
            with pytest.raises(Conflict, match="another daemon listens there"):
                await ApiServer(WholeNode(tmp_path)).start(path)
        assert not path.exists()

    asyncio.run(check())


def test_a_socket_of_the_service_manager_is_served_and_left(tmp_path: Path) -> None:
    """A client that connects before the server is there, and waits, is answered."""

    async def check() -> None:
        path = tmp_path / "docker.sock"
        with socket.socket(socket.AF_UNIX) as given:
            given.bind(str(path))
            given.listen()
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
            server = ApiServer(WholeNode(tmp_path))
            await server.adopt(given.dup())
            assert (await asyncio.wait_for(reader.read(), 20)).endswith(b"OK")
            writer.close()
            await server.close()
            assert path.is_socket()
            with socket.socket(socket.AF_UNIX) as next_client:
                next_client.connect(str(path))

    asyncio.run(check())


def test_a_stale_socket_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "docker.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        async with serving(path) as (_, ask):
            assert (await ask("GET", "/_ping"))[:2] == (200, "OK")
        path.write_text("mine")
        with pytest.raises(Conflict, match="is not a socket"):
            await ApiServer(WholeNode(tmp_path)).start(path)
        assert path.read_text() == "mine"

    asyncio.run(check())


def test_ping_tells_what_clients_need(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            for method, text in (("GET", "OK"), ("HEAD", "")):
                status, body, headers = await ask(method, "/_ping")
                assert (status, body) == (200, text)
                assert (headers["Api-Version"], headers["Ostype"], headers["Builder-Version"]) == (
                    "1.51",
                    "linux",
                    "1",
                )
                assert headers["Swarm"] == "active/manager"

    asyncio.run(check())


@pytest.mark.parametrize(
    ("method", "url", "body", "status", "text"),
    [
        (
            "GET",
            "/v1.23/info",
            None,
            400,
            "client version 1.23 is too old. Minimum supported API version is 1.24",
        ),
        (
            "GET",
            "/v1.99/info",
            None,
            400,
            "client version 1.99 is too new. Maximum supported API version is 1.51",
        ),
        ("GET", "/v1.4.1/info", None, 400, "invalid API version"),
        ("GET", f"/v{'9' * 5000}.1/info", None, 400, "invalid API version: '999"),
        ("GET", f"/v1.{'9' * 5000}/info", None, 400, "invalid API version: '1.999"),
        ("GET", "/v1.²/info", None, 404, "page not found"),
        ("GET", "/nonsense", None, 404, "page not found"),
        ("GET", f"/{'a' * 50_000}", None, 404, "page not found"),
        ("GET", f"/{'a' * 70_000}", None, 431, "a line of it is longer than 65536 bytes"),
        ("PATCH", "/v1.45/info", None, 404, "page not found"),
        ("GET", "/networks/zz", None, 404, "network zz not found"),
        ("GET", "/containers/zz/json", None, 404, "No such container: zz"),
        ("GET", "/exec/zz/json", None, 404, "No such exec instance: zz"),
        ("GET", "/images/a/b/c/json", None, 404, "No such image: a/b/c"),
        ("GET", "/images/UPPER CASE/json", None, 400, "invalid reference format"),
        ("GET", "/secrets/zz", None, 404, "secret zz not found"),
        (
            "POST",
            f"/images/{IMAGE}/tag?repo=sha256&tag=y",
            None,
            400,
            "refusing to create an ambiguous tag using digest algorithm",
        ),
        ("GET", "/containers/json?filters={", None, 400, "invalid filter"),
        ("GET", "/containers/json?filters=[1]", None, 400, "invalid filter"),
        ("GET", '/tasks?filters={"nonsense":{"a":true}}', None, 400, "invalid filter 'nonsense'"),
        ("GET", "/events?since=yesterday", None, 400, "yesterday"),
        ("GET", f"/events?since={'9' * 5000}", None, 400, "is not a timestamp"),
        ("GET", f"/containers/json?limit={10**30}", None, 400, "is not a number from 0 to"),
        ("GET", "/services/x/logs?stdout=1&tail=-1", None, 404, "service x not found"),
        (
            "GET",
            f'/networks?filters={{"name":["{"a" * 300}"]}}',
            None,
            400,
            "it has 300 characters, more than 256",
        ),
        (
            "GET",
            f"/images/{'a' * 300}/json",
            None,
            400,
            "repository name must not be more than 255 characters",
        ),
        ("POST", "/networks/create", b"{", 400, "invalid JSON"),
        ("POST", "/networks/create", b"", 400, "invalid JSON: got EOF while reading request body"),
        ("POST", "/networks/create", b'{"Name": 5}', 400, "$.Name"),
        ("POST", "/services/create", b'{"Name": "a"}', 400, "missing container spec"),
        ("POST", "/services/create", b" " * 1_600_000, 413, "larger than 1572864 bytes"),
        ("POST", "/weft/keys/update", b'{"Every": 1%030d}' % 0, 400, "$.Every"),
        ("POST", "/services/create", b'{"Name": "a", "Labels": {"b": 1}}', 400, "$.Labels"),
        (
            "POST",
            "/nodes/self/update?version=1",
            b'{"Role": "king", "Availability": "active"}',
            400,
            'invalid value "king" for Role',
        ),
        ("POST", "/nodes/self/update?version=x", b"{}", 400, "invalid version"),
        (
            "POST",
            "/nodes/self/update?version=99",
            b'{"Role": "manager", "Availability": "active"}',
            500,
            "update out of sequence",
        ),
        ("POST", "/swarm/unlock", b"{}", 409, "swarm is not locked"),
        ("POST", "/containers/create", b"{}", 400, "config cannot be empty"),
        (
            "POST",
            "/containers/create",
            b'{"Image": "absent"}',
            404,
            "No such image: absent:latest",
        ),
        ("POST", "/build", b"", 501, "is not supported by Weft"),
        ("POST", "/swarm/join", b'{"RemoteAddrs": ["a"]}', 400, "invalid join token"),
    ],
)
def test_errors(
    tmp_path: Path, method: str, url: str, body: bytes | None, status: int, text: str
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            before = asked_for(node.swarm().state)
            got = await ask(method, url, body)
            assert got[0] == status, got
            assert text in got[1]["message"]
            assert asked_for(node.swarm().state) == before

    asyncio.run(check())


def test_both_forms_of_filters_and_unversioned_paths(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            for prefix in ("", "/v1.24", "/v1.51"):
                for filters in ('{"name":{"ingress":true,"host":false}}', '{"name":["ingress"]}'):
                    _, networks, _ = await ask("GET", f"{prefix}/networks?filters={filters}")
                    assert [network["Name"] for network in networks] == ["ingress"]

    asyncio.run(check())


def test_lookup_prefers_names_and_refuses_ambiguous_prefixes(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (node, ask):
            spec = ServiceSpec(
                name="a", task=TaskSpec(container=ContainerSpec(image=IMAGE)), replicas=0
            )
            ids: list[str] = []
            while len(ids) < 3 or len({id[0] for id in ids}) == len(ids):
                name = ids[0][0] if len(ids) == 1 else f"s{len(ids)}"
                ids.append(
                    await node.swarm().create_service(
                        ServiceSpec(name=name, task=spec.task, replicas=0)
                    )
                )
            shared = Counter(id[0] for id in ids)
            [(twice, matches)] = shared.most_common(1)
            assert (await ask("GET", f"/services/{ids[0][0]}"))[1]["ID"] == ids[1]
            if twice != ids[0][0]:
                status, body, _ = await ask("GET", f"/services/{twice}")
                assert (status, body["message"]) == (
                    400,
                    f"service {twice} is ambiguous ({matches} matches found)",
                )
            assert (await ask("GET", f"/services/{ids[2][:9]}"))[1]["ID"] == ids[2]

    asyncio.run(check())


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip", "nonsense", "GZIP"])
@pytest.mark.parametrize("url", ["/networks/create", "/images/load", "/nonsense"])
def test_coded_bodies_are_refused(tmp_path: Path, coding: str, url: str) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            for body in (b"{}", zlib.compress(b"{}")):
                status, answer, _ = await ask("POST", url, body, **{"Content-Encoding": coding})
                assert (status, coding in answer["message"]) == (415, True)
            assert (
                await ask("POST", "/networks/create", b"{}", **{"Content-Encoding": "Identity"})
            )[0] == 400

    asyncio.run(check())


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (b"nonsense\r\n\r\n", 400, "Invalid method"),
        (
            b"GET / HTTP/1.1\r\nHost: d\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
            431,
            "longer than 65536 bytes",
        ),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 400, "Too many headers"),
        (
            b"POST /networks/create HTTP/1.1\r\nHost: d\r\nContent-Length: -5\r\n\r\n",
            400,
            "Content-Length",
        ),
        (
            (
                b"POST /networks/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding:"
                b" chunked\r\n\r\nZZ\r\n"
            ),
            400,
            "chunk",
        ),
        (b"GET http://[::: HTTP/1.1\r\nHost: d\r\n\r\n", 400, "http://[:::"),
        (b"\x16\x03\x01\x00\xa5\x01", 400, "HTTPS"),
    ],
)
def test_what_is_no_http_is_refused_as_json(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_: bytes, status: int, text: str
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            writer.write(request_)
            head, _, body = (await asyncio.wait_for(reader.read(), 20)).partition(b"\r\n\r\n")
            writer.close()
            assert int(head.split()[1]) == status
            assert text in json.loads(body)["message"]
            assert (await ask("GET", "/_ping"))[0] == 200

    caplog.set_level(logging.INFO)
    asyncio.run(check())
    assert all(len(record.getMessage()) < 1500 and not record.exc_info for record in caplog.records)


def test_a_defect_has_a_number_and_no_traceback_for_the_client(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> str:
        async with serving(tmp_path / "s") as (node, ask):
            node.images.all = None  # type: ignore[assignment,method-assign]  # the defect
            status, body, _ = await ask("GET", "/info")
            assert status == 500
            return str(body["message"])

    message = asyncio.run(check())
    found = re.fullmatch(
        r"internal error ([0-9a-f]{8}) in GET /info: see the daemon's log", message
    )
    assert found
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert found[1] in record.getMessage()
    assert record.exc_info


def test_messages_and_the_log_hold_the_beginning_of_what_is_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            name = "a" * 60_000
            status, body, _ = await ask("GET", f"/containers/{name}/json")
            assert status == 404
            assert body["message"].startswith(f"No such container: {name[:4000]}")
            assert len(body["message"]) < 4200

    caplog.set_level(logging.INFO)
    asyncio.run(check())
    assert max(len(record.getMessage()) for record in caplog.records) < 2000


def test_a_large_request_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    """What was raised must not know the frame that waited for it: only the garbage collector would
    end that, and seldom comes."""

    async def check() -> None:
        async with serving(tmp_path / "s") as (_, ask):
            arguments = b",".join([b'"a"'] * 60_000)
            body = (
                b'{"Name":"a b","TaskTemplate":{"ContainerSpec":{"Image":"a","Args":[%s]}}}'
                % arguments
            )
            gc.collect()
            gc.disable()
            try:
                assert (await ask("POST", "/services/create", body))[0] == 400
                async with asyncio.timeout(20):  # the server may still be about to let go of it
                    while any(
                        isinstance(thing, list | tuple) and len(thing) == 60_000
                        for thing in gc.get_objects()
                    ):
                        await asyncio.sleep(0)
            finally:
                gc.enable()

    asyncio.run(check())


def test_a_network_that_hides_a_route_of_a_host_is_made_with_a_warning(tmp_path: Path) -> None:
    async def check() -> None:
        routes = (IPv4Network("10.99.0.0/16"),)
        async with serving(tmp_path / "s", routes=routes) as (node, ask):
            await node.until(lambda state: all(host.routes for host in state.nodes.values()))
            pools = [{"Subnet": subnet} for subnet in ("10.98.0.0/24", "10.99.1.0/24")]
            body = {"Name": "n", "Driver": "overlay", "IPAM": {"Config": pools}}
            status, created, _ = await ask("POST", "/networks/create", json.dumps(body).encode())
            assert (status, created["Warning"]) == (
                201,
                (
                    "subnet 10.99.1.0/24 overlaps routes of node1 (10.99.0.0/16): "
                    "containers on this network cannot reach what is there"
                ),
            )

    asyncio.run(check())


def test_no_two_routes_are_the_same() -> None:
    keys = [(method, path) for method, path, _ in ROUTES]
    assert len(set(keys)) == len(keys)
