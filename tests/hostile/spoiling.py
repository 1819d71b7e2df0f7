"""Ways to spoil a request, and any number of requests that are spoilt in some of them."""

import base64
import json
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from tests.hostile.requests import VALID, Draft, Pairs, Raw, dump, nested
from weft.api.routes import ROUTES

HUGE = [
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    10**30,
    -1,
    -(2**31),
    -(2**63),
    -(2**63) - 1,
    -(10**30),
]
NUMBERS: list[Any] = [
    0, 1, 255, 256, 65535, 65536, *HUGE, 0.5, -0.5, 1e308, Raw(b"1e400"), Raw(b"-1e400"),
    Raw(b"NaN"), Raw(b"Infinity"), Raw(b"-0"),
    Raw(b"1.0"), Raw(b"1E2"), Raw(b"01"), Raw(b"0x10"), Raw(b"9" * 400), Raw(b"9" * 5000),
]  # fmt: skip
TEXTS = [
    "", " ", "-", ".", "..", "/", "//", "\0", "\n", "a\0b", "a\nb", "a\r\nX: y", "\x7f", "é", "🤖",
    "\u202eabc", "\ufeff", "İ", "²", "٣",
    "a" * 64, "a" * 256, "a" * 5000, "a" * 26 + "!", "paymentgatewayintegration.eu-west",
    "ab" * 20 + ".x", "-_" * 30 + ".", "A B",
    "../../../etc/shadow", "/proc/self/fd/7", "%00", "%2e%2e%2f", "%zz", "${PATH}", "`id`", "';--",
    "<b>", "{{.Node.ID", "{{" * 99, "{{ }}",
    "{{.No.Such}}", "node.role==", "node.role", "==", "!=x", "node.labels.a==" + "b" * 2000, "0",
    "1", "-1", "true", "null", "9" * 30, "9" * 5000,
    "1e400", "0.0.0.0", "0.0.0.0/0", "10.0.0.0/33", "10.0.0.1/24", "127.0.0.0/8", "224.0.0.0/4",
    "255.255.255.255", "::1", "fd00::/64", "1.2.3", "[",
    "sha256:" + "a" * 64, "a@sha256:" + "a" * 64, "a:b:c", ":", "@", "localhost:99999/x",
    "x/" * 200, "SIGKILL", "SIGNOTHING", "bridge", "host",
    "ingress", "self", "web", "net", "999999h", "2262-04-12T00:00:00Z", "9999-12-31T23:59:59Z",
    "0000-00-00", "1700000000.9999999999", "--1",
    "(a+)+$", "(" * 40, "[a", "a{1000}{1000}", "(a{1000}){1000}", "(.*a){30}", "*" * 60, "**/**",
    "[!-~]",
]  # fmt: skip
VERSIONS = [
    "1.24", "1.51", "1.41", "1.23", "1.99", "9" * 5000 + ".1", "1." + "9" * 5000, "1", "1.", ".",
    "1.4.7", "01.047", "0", "1.51/v1.51",
]  # fmt: skip
METHODS = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "G\0T",
    "GET" * 40,
    "PRI",
]
PATHS = [
    "/", "//", "/v1.51", "/v1.51/", "/%2e%2e/info", "/info/", "/info//", "/Info", "/info%00",
    "/info?", "/info#x", "/%", "/%zz", "/é", "/" + "a" * 9000,
    "/images/../../info", "/containers//json", "/services/%2f%2f", "/images/a%2fb/json",
    "http://docker/info", "*", "/" + "x/" * 3000, "/_ping%0d%0aX: y",
]  # fmt: skip
CODINGS = [
    "gzip",
    "deflate",
    "br",
    "zstd",
    "compress",
    "identity",
    "gzip, deflate",
    "\t",
    "x" * 300,
]
TYPES = [
    "text/plain",
    "application/x-tar",
    "application/json; charset=latin-1",
    "application/json;;",
    "APPLICATION/JSON",
    "/",
    "multipart/form-data",
]
HEADERS = [
    ("Expect", "100-continue"), ("Expect", "nonsense"), ("Upgrade", "websocket"),
    ("Upgrade", "h2c"), ("Upgrade", "tcp"), ("Range", "bytes=0-5"),
    ("Host", "evil"), ("Host", ""), ("X", "a" * 70_000), ("X", "\x80é"), ("Cookie", "a=b;" * 500),
    ("X Y", "z"), ("", "x"), ("Origin", "null"),
    ("If-None-Match", "*"), ("If-Modified-Since", "yesterday"), ("Accept-Encoding", "gzip"),
    ("Content-Length", "5"), ("Content-Length", "-1"),
    ("Content-Length", "9" * 30), ("Content-Length", "0x5"), ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip, chunked"),
    ("Transfer-Encoding", "nonsense"), ("Trailer", "X"), ("X-Registry-Auth", "!!!"),
    ("X-Registry-Auth", "e30="), ("X-Registry-Auth", "bnVsbA=="),
    ("X-Registry-Auth", base64.urlsafe_b64encode(b"[" * 50_000).decode()),
    ("X-Registry-Auth", "a" * 60_000), ("X-Registry-Auth", "WzFd"),
]  # fmt: skip
BOMB = zlib.compress(b" " * 10_000_000)
FRAMING = {"content-length", "transfer-encoding", "expect"}

Spoil = Callable[[random.Random, Draft], None]


def spoil_value(rng: random.Random, draft: Draft) -> None:
    """One value of the JSON becomes another."""
    if draft.body is not None:
        draft.body = _with(draft.body, _choose_place(rng, draft.body), lambda _: hostile_value(rng))


def spoil_structure(rng: random.Random, draft: Draft) -> None:
    """Something in the JSON is gone, there twice, misspelt, unknown, or wrapped."""
    if draft.body is not None:
        draft.body = _with(
            draft.body, _choose_place(rng, draft.body), lambda value: _restructured(rng, value)
        )


def spoil_bytes(rng: random.Random, draft: Draft) -> None:
    """The body is no JSON any more, or a large one."""
    data = dump(draft.body) if draft.body is not None else b"{}"
    cut = rng.randrange(len(data) + 1)
    other = rng.choice([*OTHER_BODIES, None]) if rng.random() < 0.5 else None
    draft.data = _cut(rng, data, cut) if other is None else other()


def _cut(rng: random.Random, data: bytes, cut: int) -> bytes:
    before, behind = data[:cut], data[cut:]
    return rng.choice([
        before, data + b"x", data + data, b"\xef\xbb\xbf" + data, before + b"\xff\xfe" + behind,
        before + b"\0" + behind,
        data.replace(b'"', b"'"), zlib.compress(data), data.decode("latin-1").encode("utf-16"),
        bytes(rng.randrange(256) for _ in range(200)),
    ])  # fmt: skip


OTHER_BODIES: tuple[Callable[[], bytes], ...] = (
    bytes, lambda: b" ", lambda: b"null", lambda: b"[]", lambda: b"{}", lambda: b"0", lambda: b'""',
    lambda: b"true",
    lambda: b"[" * 100_000, lambda: b'{"a":' * 50_000,
    lambda: b'{"Name":"' + b"a" * 1_400_000 + b'"}',
    lambda: b'{"Labels":{' + b",".join(b'"%d":""' % i for i in range(110_000)) + b"}}",
    lambda: b" " * 1_600_000,
)  # fmt: skip


def spoil_query(rng: random.Random, draft: Draft) -> None:
    names = [name for name, _ in draft.query] or ["version", "filters", "all", "force", "x"]
    name = rng.choice(names)
    value = rng.choice([*TEXTS, *map(str, HUGE), *FILTER_TEXTS])
    kept = [pair for pair in draft.query if pair[0] != name]
    draft.query = rng.choice(
        [
            kept,
            [*kept, (name, value)],
            [*kept, (name, value)],
            [*draft.query, (name, value)],
            [*draft.query, (value, "1")],
        ]
    )


FILTER_TEXTS = [
    "{", "[1]", "null", "0", '""', '{"name":1}', '{"name":{"a":1}}', '{"name":[null]}',
    '{"name":[[]]}', '{"nonsense":["a"]}', '{"name":[]}', '{"":[""]}',
    '{"label":["=","a=","=b"]}', '{"until":["1h"]}', '{"dangling":["perhaps"]}',
    '{"id":{"\\u0000":true}}', "[" * 3000, '{"name":["(a+)+$"]}',
    '{"reference":["[a"]}', '{"before":["nothing"]}', '{"since":["nothing"]}', '{"is-task":["x"]}',
    '{"_up-to-date":["x"]}', '{"node":["x"]}',
    json.dumps({"name": ["(a*)*" * 40] * 100}), json.dumps({"name": [str(i) for i in range(300)]}),
    json.dumps({"id": ["a" * 30_000]}),
]  # fmt: skip


def spoil_id(rng: random.Random, draft: Draft) -> None:
    draft.id = quote(rng.choice(TEXTS), safe=rng.choice(["", "/", "/:@"]))


def spoil_path(rng: random.Random, draft: Draft) -> None:
    draft.path = rng.choice(
        [
            *PATHS,
            draft.path + "/",
            draft.path.replace("/", "//"),
            draft.path.upper(),
            draft.path + "/x",
            draft.path + "%2f",
        ]
    )


def spoil_version(rng: random.Random, draft: Draft) -> None:
    draft.version = rng.choice(VERSIONS)


def spoil_method(rng: random.Random, draft: Draft) -> None:
    draft.method = rng.choice(METHODS)


def spoil_header(rng: random.Random, draft: Draft) -> None:
    header = rng.choice(
        [*HEADERS, ("Content-Type", rng.choice(TYPES)), ("Content-Encoding", rng.choice(CODINGS))]
    )
    draft.headers += [header] * rng.choice([1, 1, 1, 2, 150])
    if any(name.lower() in FRAMING for name, _ in draft.headers):
        draft.framed = False


def spoil_coding(rng: random.Random, draft: Draft) -> None:
    """A body that is not coded as it says, or is."""
    data = dump(draft.body) if draft.body is not None else b"{}"
    draft.data = rng.choice([data, zlib.compress(data), zlib.compress(data)[:-3], BOMB])
    draft.headers.append(("Content-Encoding", rng.choice(CODINGS)))


SPOILS: tuple[Spoil, ...] = (
    spoil_value, spoil_value, spoil_value, spoil_structure, spoil_bytes, spoil_query, spoil_query,
    spoil_id, spoil_path, spoil_version, spoil_method,
    spoil_header, spoil_coding,
)  # fmt: skip


def hostile_value(rng: random.Random) -> Any:
    ways: list[Callable[[], Any]] = [
        lambda: rng.choice(NUMBERS), lambda: rng.choice(NUMBERS), lambda: rng.choice(TEXTS),
        lambda: rng.choice(TEXTS), lambda: None, lambda: True,
        list, dict, lambda: [rng.choice(TEXTS)], lambda: {rng.choice(TEXTS): rng.choice(NUMBERS)},
        lambda: [None, {}, []],
        lambda: nested(rng.choice([10, 900, 20_000])), lambda: nested(900, b'{"a":', b"}"),
        lambda: [rng.choice(TEXTS)] * rng.choice([2, 1000]),
        lambda: {str(number): "" for number in range(1000)}, lambda: Raw(b'"\\ud800"'),
        lambda: Raw(b'"\\u0000"'), lambda: Raw(b'"\xff"'),
    ]  # fmt: skip
    return rng.choice(ways)()


def _restructured(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        others = {name: item for name, item in value.items() if name != key}
        return rng.choice([
            others, Pairs([*value.items(), (key, hostile_value(rng))]),
            others | {key.upper(): value[key]}, others | {f"{key} ": value[key]},
            value | {rng.choice(TEXTS): hostile_value(rng)}, value | {"Unknown": 0},
            value | {"Unknown": {"deep": [1]}}, [value],
        ])  # fmt: skip
    if isinstance(value, list) and value:
        return rng.choice(
            [value * 2, value * 200, value[:-1], [value], [*value, hostile_value(rng)], value[0]]
        )
    return rng.choice([[value], {"Value": value}, None])


def _choose_place(rng: random.Random, value: Any) -> tuple[Any, ...]:
    """Keys from the top to one of all places, the top included."""
    places = list(_places(value))
    return rng.choice(places)


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from ((key, *place) for place in _places(item))


def _with(value: Any, place: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if not place:
        return change(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = _with(value[place[0]], place[1:], change)
    return copy


def drafts(seed: int, count: int) -> Iterator[Draft]:
    """Each with one to three things wrong, or none: what is right must go on working between."""
    rng = random.Random(seed)
    routes = [(method, path) for method, path, _ in ROUTES] + 3 * list(VALID)
    for _ in range(count):
        method, path = rng.choice(routes)
        query, body = VALID.get((method, path), ([], None))
        draft = Draft(method, path, list(query), body)
        for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3])):
            rng.choice(SPOILS)(rng, draft)
        yield draft
