"""The table of hostile archives: each did harm once, here or elsewhere, or is the plainest of its
kind. What the generator finds becomes a row."""

import functools
import gzip
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.hostile.image_archives import (
    ARCHITECTURE,
    INDEX,
    MANIFEST,
    Blobs,
    Image,
    Json,
    docker,
    named,
    oci,
    sha256,
)
from tests.hostile.tars import BLOCK, END, Item, number, padded, tar

TAKEN = None
"""The archive is a good one, for all its looks."""
EITHER = "either"
"""It depends on the file system."""


OUTSIDE = b"{outside}"
"""In a name or a target: a directory of the host."""


class Known(NamedTuple):
    name: str
    refusal: str | None
    """Words of the message that names what is wrong; `TAKEN` if nothing is."""
    build: Callable[..., bytes]
    args: tuple[Json, ...]

    def archive(self, outside: str) -> bytes:
        return self.build(*(aimed(arg, outside) for arg in self.args))


def aimed(value: Json, outside: str) -> Json:
    """An entry that goes for the directory `outside`."""
    if not isinstance(value, Item):
        return value
    name, target = (text.replace(OUTSIDE, outside.encode()) for text in (value.name, value.target))
    return value._replace(name=name, target=target)


def row(name: str, refusal: str | None, build: Callable[..., bytes], *args: Json) -> Known:
    return Known(name, refusal, build, args)


def layer(*items: Item, end: bytes = END) -> bytes:
    return docker(Image((tar(*items, end=end),)))


def raw_layer(data: bytes) -> bytes:
    return docker(Image((data,)))


def _sparse_binary(blocks: int) -> bytes:
    """GNU's sparse file with so many blocks of its map."""
    first = Item(b"sparse", type=b"S", size=0, magic=b"ustar  \0", raw=((482, b"\1"),))
    block = (number(0, 12) + number(0, 12)) * 21
    body = [block + b"\1" + b"\0" * 7] * (blocks - 1) + [block + b"\0" * 8]
    return raw_layer(tar(first, end=b"") + b"".join(body) + END)


def _pax_sparse(lines: bytes, content: bytes = b"", size: bytes = b"4096") -> bytes:
    pax = (
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"sparse"),
        (b"GNU.sparse.realsize", size),
    )
    return layer(Item(b"GNUSparseFile.0/sparse", padded(lines) + content, pax=pax))


def _nested_index(width: int, depth: int) -> bytes:
    blobs = Blobs()
    images = [blobs.add_image(Image((tar(),), run={"User": str(n)})) for n in range(width)]
    level = [{**image, **named(f"hostile:{n}")} for n, image in enumerate(images)]
    for _ in range(depth):
        index = blobs.add_json({"schemaVersion": 2, "manifests": level}, INDEX)
        level = [{**index, **named(f"hostile:{n}")} for n in range(width)]
    return blobs.archive({"schemaVersion": 2, "manifests": level})


def _foreign(platform: dict[str, str], *others: Json) -> bytes:
    blobs = Blobs()
    foreign = blobs.add_image(Image((tar(),)), platform=platform, **named("foreign:1"))
    return blobs.archive({"schemaVersion": 2, "manifests": [foreign, *others]})


def _index_of_itself() -> bytes:
    """A document cannot contain its own digest: so its name lies."""
    blobs = Blobs()
    digest = "sha256:" + "a" * 64
    entry = {"mediaType": INDEX, "digest": digest, "size": 1}
    blobs.content[digest] = json.dumps({"manifests": [entry]}).encode()
    return blobs.archive({"schemaVersion": 2, "manifests": [entry]})


def _whole(data: bytes, start: int = 0, end: int | None = None, put: bytes = b"") -> bytes:
    return data[:start] + put + data[start + len(put) : end]


GOOD = layer(Item(b"a", b"12345"))
DEEP = b"/".join([b"d"] * 2000)
OCI_IMAGE = {"mediaType": MANIFEST, "digest": sha256(b""), "size": 0}

WHITEOUTS = [
    row(f"whiteout {name!r}", refusal, layer, Item(b"d", type=b"5"), Item(b"d/" + name))
    for name, refusal in (
        (b".wh...", "invalid whiteout name"), (b".wh.", "invalid whiteout name"),
        (b".wh..", "invalid whiteout name"), (b".wh.../", "invalid whiteout name"),
        (b".wh..wh.plnk", TAKEN), (b".wh..wh..opq", TAKEN), (b".wh....", TAKEN),
        (b".wh.absent", TAKEN), (b".wh..wh..opq/a", TAKEN), (b".wh.a/b", TAKEN),
    )
] + [
    row("whiteout of the root", "invalid whiteout name", layer, Item(b".wh...")),
    row("whiteout by a link", TAKEN, layer,
        Item(b"way", type=b"2", target=b"../../../.."), Item(b"way/.wh.outside")),
    row("whiteout by a link and dots", "leads out", layer,
        Item(b"way", type=b"2", target=b"/"), Item(b"way/../../.wh.outside")),
    row("opaque by a link", TAKEN, layer,
        Item(b"way", type=b"2", target=b"/.."), Item(b"way/.wh..wh..opq")),
    row("whiteout of what the layer has", TAKEN, layer,
        Item(b"d", type=b"5"), Item(b"d/a", b"x"), Item(b".wh.d"), Item(b".wh.d")),
    row("whiteout in a file", "Not a directory", layer, Item(b"f"), Item(b"f/.wh.x")),
]  # fmt: skip

NAMES = [
    row("name that climbs", "leads out", layer, Item(b"../../../outside/file", b"x")),
    row("absolute name that climbs", "leads out", layer, Item(b"/../../outside/file", b"x")),
    row("absolute name", TAKEN, layer, Item(b"/outside/file", b"x")),
    row("name of the root", TAKEN, layer, Item(b"/", b"x"), Item(b".", type=b"2"), Item(b"")),
    row("link that climbs, and a name below", "cannot be made", layer,
        Item(b"way", type=b"2", target=b"../../../outside"), Item(b"way/file", b"x")),
    row("absolute link, and a name below", "cannot be made", layer,
        Item(b"way", type=b"2", target=b"{outside}"), Item(b"way/file", b"x")),
    row("link to the host, replaced by a file", TAKEN, layer,
        Item(b"way", type=b"2", target=b"{outside}/file"), Item(b"way", b"x")),
    row("link to the host, replaced by a directory", TAKEN, layer,
        Item(b"way", type=b"2", target=b"{outside}"), Item(b"way", type=b"5", mode=0o777)),
    row("links in a circle", "Too many levels", layer,
        Item(b"a", type=b"2", target=b"b"), Item(b"b", type=b"2", target=b"a"), Item(b"a/x")),
    row("link to /proc", "cannot be made", layer,
        Item(b"p", type=b"2", target=b"/proc/self/root"), Item(b"p/outside/file")),
    row("hard link that climbs", "leads out", layer,
        Item(b"l", type=b"1", target=b"../../../../outside/file")),
    row("absolute hard link", "No such file", layer, Item(b"l", type=b"1",
        target=b"{outside}/file")),
    row("hard link by a link", "cannot be made", layer,
        Item(b"way", type=b"2", target=b"{outside}"), Item(b"l", type=b"1", target=b"way/file")),
    row("hard link to a link, written through", TAKEN, layer,
        Item(b"way", type=b"2", target=b"{outside}/file"), Item(b"l", type=b"1", target=b"way"),
        Item(b"l", b"overwritten")),
    row("hard link to the root", "own directory", layer, Item(b"l", type=b"1", target=b"/")),
    row("hard link to a directory", "cannot be made", layer,
        Item(b"d", type=b"5"), Item(b"l", type=b"1", target=b"d")),
    row("hard link to itself", "No such file", layer, Item(b"l"), Item(b"l", type=b"1",
        target=b"l")),
    row("link to nothing", "cannot be made", layer, Item(b"l", type=b"2")),
    row("NUL in a pax path", "not allowed", layer, Item(pax=((b"path", b"a\0b"),))),
    row("NUL in a pax link", "not allowed", layer,
        Item(type=b"2", pax=((b"linkpath", b"a\0b"),))),
    row("NUL in the name of an attribute", "not allowed", layer,
        Item(pax=((b"SCHILY.xattr.user.a\0b", b"x"),))),
    row("a name of 5,000 bytes", "5000 bytes", layer, Item(long_name=b"n" * 5000)),
    row("a name of 300 bytes", "File name too long", layer, Item(long_name=b"n" * 300)),
    row("a link of 5,000 bytes", "File name too long", layer,
        Item(type=b"2", long_target=b"n" * 5000)),
    row("a path 2,000 deep", TAKEN, layer, Item(long_name=DEEP)),
    row("a path 2,000 deep with a bad end", "cannot be made", layer,
        Item(long_name=DEEP), Item(long_name=DEEP + b"/x")),
    row("a tree 6,000 deep, by links", TAKEN, layer, *[
        item
        for n in range(3)
        for item in (
            Item(long_name=b"%d/%s" % (n, DEEP), type=b"5"),
            Item(b"%d" % (n + 1), type=b"2", long_target=b"/%d/%s" % (n, DEEP)),
        )
    ]),
    row("5,000 long names for one entry", TAKEN, raw_layer, b"".join(
        tar(Item(b"././@LongLink", b"n%d\0" % n, b"L"), end=b"") for n in range(5000)
    ) + tar(Item())),
    row("a long name and no entry", "between the name", raw_layer,
        tar(Item(b"././@LongLink", b"n\0", b"L"))),
    row("directory and file in turn", TAKEN, layer, *[
        Item(b"a", type=b"5") if n % 2 else Item(b"a", b"x") for n in range(200)
    ]),
    row("a file in the place of a directory by a link to its root", "cannot be made", layer,
        Item(b"a", type=b"5"), Item(b"a/up", type=b"2", target=b"/"), Item(b"a/up/x", b"x"),
        Item(b"a/up/a", b"x"), Item(b"a/up/y", b"x")),
]  # fmt: skip


def with_field(field: str, value: Any) -> Item:
    return Item(**{field: value})


NUMBERS = [
    row(f"{field} {value!r}", refusal, layer, with_field(field, value))
    for field, value, refusal in (
        ("uid", 2**32, "out of range"), ("uid", 2**32 - 1, "out of range"), ("uid", -1, "negative"),
        ("gid", 2**40, "out of range"), ("gid", b"-0001\0", "no number"), ("uid", 2**32 - 2, TAKEN),
        ("uid", b"0x10", "no number"), ("mtime", -(2**40), TAKEN), ("mtime", 2**70, TAKEN),
        ("mode", -1, "negative"), ("mode", 0o107777, TAKEN), ("size", -512, "negative"),
        ("size", 2**62, "ends in the middle"), ("size", b"99999999999", "no number"),
    )
] + [
    row(f"pax {key!r} {value!r}", refusal, layer, Item(pax=((key, value),)))
    for key, value, refusal in (
        (b"mtime", b"nan", "no moment"), (b"mtime", b"inf", "no moment"),
        (b"mtime", b"-inf", "no moment"), (b"mtime", b"1e400", "no moment"),
        (b"mtime", b"9" * 30, "no moment"), (b"mtime", b"9" * 19, TAKEN),
        (b"mtime", b"-1.5", TAKEN),
        (b"uid", b"-1", "no number"), (b"uid", b"4294967296", "no number"),
        (b"gid", b"1_0", "no number"), (b"size", b"-1", "no number"),
        (b"size", b"9" * 5000, "no number"), (b"size", b"1000000", "ends in the middle"),
        (b"SCHILY.xattr.", b"x", "cannot be made"), (b"SCHILY.xattr.nonsense", b"x", TAKEN),
        (b"SCHILY.xattr.user.a", b"\0\xff", TAKEN), (b"SCHILY.xattr.user." + b"n" * 300, b"x", ""),
        (b"SCHILY.xattr.user.a", b"x" * 70_000, ""),
        (b"SCHILY.xattr.trusted.overlay.redirect", b"/../../outside", TAKEN),
        (b"SCHILY.xattr.trusted.overlay.opaque", b"y", TAKEN),
        (b"SCHILY.xattr.security.capability", b"nonsense", "cannot be made"),
    )
] + [
    row("device out of range", "cannot be", layer, Item(type=b"3", major=2**20, minor=2**30)),
    row("device", TAKEN, layer, Item(type=b"4", major=4095, minor=1048575, mode=0o777)),
    row("whiteout as a device", TAKEN, layer, Item(type=b"3")),
    row("set-user-id and sticky", TAKEN, layer, Item(mode=0o7777),
        Item(b"d", type=b"5", mode=0o7777)),
    row("unknown type", "unknown type", layer, Item(type=b"Z")),
    row("checksum", "checksum", layer, Item(checksum=b"0000000")),
    row("pax records cut short", "damaged", raw_layer,
        tar(Item(b"x", b"30 path=a\n", b"x"), Item())),
    row("pax records with a long number", "damaged", raw_layer,
        tar(Item(b"x", b"9" * 5000 + b" path=a\n", b"x"), Item())),
    row("2 MiB of pax records", "says about one entry", layer,
        Item(pax=((b"comment", b"x" * (2 << 20)),))),
    row("8 GiB of pax records", "says about one entry", raw_layer,
        tar(Item(b"x", type=b"x", size=8 << 30))),
]  # fmt: skip

SPARSE = [
    row("sparse map of 2,000,000 segments", "map of a sparse file", _sparse_binary, 95_000),
    row("sparse map cut short", "in the middle", raw_layer,
        tar(Item(b"s", type=b"S", raw=((482, b"\1"),)), end=b"")),
    row("sparse file with a map", TAKEN, _pax_sparse, b"1\n100\n5\n", b"12345"),
    row("sparse file of 8 EiB", EITHER, _pax_sparse, b"0\n", b"", b"9223372036854775807"),
    row("sparse file of one TiB", TAKEN, _pax_sparse, b"1\n1099511627770\n5\n", b"12345",
        b"1099511627776"),
    row("sparse map that overlaps", "wrong at", _pax_sparse, b"2\n0\n5\n3\n5\n", b"1234567890"),
    row("sparse map beyond the end", "wrong at", _pax_sparse, b"1\n4095\n5\n", b"12345"),
    row("sparse map of more than there is", "of content", _pax_sparse, b"1\n0\n500\n", b"12345"),
    row("sparse map that is none", "no number", _pax_sparse, b"x\n"),
    row("sparse map without an end", "no end", _pax_sparse, b"1" * 4096),
    row("sparse map of 10**18", "segments", _pax_sparse, b"1" + b"0" * 18 + b"\n"),
    row("sparse file by a list", TAKEN, layer, Item(b"s", b"12345", pax=(
        (b"GNU.sparse.size", b"100"), (b"GNU.sparse.offset", b"5"), (b"GNU.sparse.numbytes",
        b"5")))),
    row("sparse list out of order", "out of order", layer, Item(b"s", b"12345", pax=(
        (b"GNU.sparse.size", b"100"), (b"GNU.sparse.numbytes", b"5"), (b"GNU.sparse.offset",
        b"5")))),
    row("sparse list without a size", "its size", layer,
        Item(b"s", b"12345", pax=((b"GNU.sparse.map", b"0,5"),))),
]  # fmt: skip

STREAMS = [
    row("empty", "neither manifest.json", bytes),
    row("garbage", "not a tar", b"garbage".ljust, 5000, b"!"),
    row("zeros", "neither manifest.json", bytes, 100_000),
    row("cut short", "ends in the middle", _whole, GOOD, 0, len(GOOD) // 2 + 7),
    row("layer cut short", "ends in the middle", raw_layer, tar(Item(b"a", b"12345"))[:700]),
    row("layer that is no tar", "not a tar", raw_layer, b"garbage" * 1000),
    row("layer of nothing", TAKEN, raw_layer, b""),
    row("layer without an end", TAKEN, raw_layer, tar(Item(b"a", b"12345"), end=b"")),
    row("17 MiB after a layer's end", "follow the end", raw_layer, tar() + bytes(17 << 20)),
    row("gzip that is none", "data is damaged", raw_layer, b"\x1f\x8b\x08" + b"x" * 100),
    row("gzip cut short", "data ends in the middle", raw_layer, gzip.compress(tar())[:-6]),
    row("gzip with a wrong checksum", "data is damaged", raw_layer,
        gzip.compress(tar())[:-8] + b"\0" * 8),
    row("gzip and garbage", "data is damaged", raw_layer, gzip.compress(tar()) + b"garbage"),
    row("bzip2 that is none", "data is damaged", raw_layer, b"BZh9" + b"x" * 100),
    row("xz that is none", "data is damaged", raw_layer, b"\xfd7zXZ\x00" + b"x" * 100),
    row("zstd that is none", "data is damaged", raw_layer, b"\x28\xb5\x2f\xfd" + b"x" * 100),
    row("an archive in gzip, cut short", "data ends in the middle",
        lambda: gzip.compress(GOOD)[:-9]),
    *(row(f"layer in {name}", TAKEN, docker, Image((tar(Item(b"a", b"1")),), compression=name))
      for name in ("gzip", "bzip2", "xz", "zstd")),
]  # fmt: skip

MANIFESTS = [
    row(f"manifest.json {text[:30]!r}", refusal, functools.partial(docker, manifest=text))
    for text, refusal in (
        (b"", "manifest.json"), (b"{}", "Expected `array`"), (b'"x"', "Expected `array`"),
        (b"null", "Expected `array`"), (b"5", "Expected `array`"), (b"[5]", "Expected `object`"),
        (b"[null]", "Expected `object`"), (b"[{}]", "missing required field `Config`"),
        (b"[]", "names no image"), (b'[{"Config":5}]', "Config"), (b"[" * 100_000, "manifest.json"),
        (b'[{"x":' + b"[" * 100_000, "manifest.json"), (b"[" + b" " * (5 << 20) + b"]", "bytes"),
        (b'[{"Config":"../../outside/file"}]', "no file"), (b'[{"Config":"\xff"}]',
        "manifest.json"),
        (b'[{"Config":"\\ud800"}]', "manifest.json"), (b'[{"Config":"manifest.json"}]', "manifest"),
        (b'[{"Config":"' + b"x" * 100_000 + b'"}]', "Config"),
        (b'[{"Config":"c","Layers":[5]}]', "Layers"), (b'[{"Config":"c","Layers":{}}]', "Layers"),
        (b'[{"Config":"c","RepoTags":[5]}]', "RepoTags"),
        (b'[{"Config":"c","RepoTags":"x"}]', "RepoTags"),
    )
] + [
    row("manifest.json a link to itself", "leads nowhere", tar,
        Item(b"manifest.json", type=b"2", target=b"manifest.json")),
    row("manifest.json a hard link to itself", "leads nowhere", tar,
        Item(b"manifest.json", type=b"1", target=b"manifest.json")),
    row("manifest.json a link to the host", "no file", tar,
        Item(b"manifest.json", type=b"2", target=b"{outside}/file")),
    row("manifest.json a directory", "no file", tar, Item(b"manifest.json", type=b"5")),
    row("manifest.json a device", "no file", tar, Item(b"manifest.json", type=b"3")),
    row("manifest.json sparse", "no file", tar,
        Item(b"manifest.json", type=b"S", size=0, raw=((483, number(1 << 60, 12)),))),
    row("manifest.json by links", "no file", tar, Item(b"c", b"x"),
        Item(b"manifest.json", type=b"2", target=b"a"), Item(b"a", type=b"1", target=b"b")),
    row("200,000 entries", "more than 100000 entries", lambda: tar(Item()) [:BLOCK] * 200_000),
    row("2,000 images", "more than 1000 images", functools.partial(
        docker, manifest=json.dumps([{"Config": "c"}] * 2000).encode())),
    row("126 layers", "length <= 125", docker,
        Image(tuple(tar(Item(b"%d" % n)) for n in range(126)))),
    row("the same layer 100 times", TAKEN, docker, Image((tar(Item(b"a")),) * 100)),
    *(row(f"tag {tag[:30]!r}", refusal, docker, Image((tar(),), (tag,))) for tag, refusal in (
        ("", "invalid name"), ("UPPER:1", "invalid name"), ("a b", "invalid name"),
        ("a" * 600, "RepoTags"), ("../../x:1", "invalid name"), ("x@sha256:" + "a" * 64, "digest"),
        ("x:1\n", "invalid name"), ("x:" + "t" * 200, "invalid name"), ("hostile", TAKEN),
        ("a" * 400 + "!", "invalid name"), ("a." * 200 + "!", "invalid name"),
    )),
]  # fmt: skip

CONFIGS = [
    row(f"run {json.dumps(run)[:40]}", refusal, docker, Image((tar(),), run=run))
    for run, refusal in (
        ({"Cmd": ["a", 5]}, "Cmd[1]"), ({"Cmd": {}}, "Cmd"), ({"Cmd": "sh"}, TAKEN),
        ({"Entrypoint": [None]}, "Entrypoint[0]"), ({"Env": [5]}, "Env[0]"), ({"Env": {}}, "Env"),
        ({"Env": ["a\0b"]}, "Env has a NUL"), ({"User": "\0"}, "User has a NUL"),
        ({"Labels": {"\0": ""}}, "Labels has a NUL"), ({"Cmd": ["x" * 200_000]}, "Cmd[0]"),
        ({"Labels": {"a": 5}}, "Labels"), ({"Labels": []}, "Labels"), ({"Labels": None}, TAKEN),
        ({"Labels": {str(n): "" for n in range(20_000)}}, "Labels"), ({"User": 5}, "User"),
        ({"WorkingDir": []}, "WorkingDir"), ({"StopSignal": 9}, "StopSignal"),
        ({"ExposedPorts": {"x/tcp": {}}}, "ExposedPorts"), ({"ExposedPorts": ["80"]},
        "ExposedPorts"),
        ({"ExposedPorts": {"99999/tcp": {}}}, "ExposedPorts"), ({"Volumes": {"/a": 5}}, "Volumes"),
        ({"ExposedPorts": {"\u0668\u0660/tcp": {}}}, "ExposedPorts"), ({"Healthcheck": 5},
        "Healthcheck"),
        ([], "config"), ("x", "config"), (None, TAKEN),
    )
] + [
    row(f"config {json.dumps(config)[:40]}", refusal, docker, Image((tar(),), config=config))
    for config, refusal in (
        ({"architecture": 5}, "architecture"), ({"os": []}, "os"), ({"os": "windows"}, "windows"),
        ({"os": "\n" * 300}, "os"), ({"created": 5}, "created"), ({"created": "yesterday"},
        "created"),
        ({"created": "9999-12-31T23:59:59Z"}, TAKEN), ({"created": "0001-01-01T00:00:00Z"}, TAKEN),
        ({"created": "2024-13-45T00:00:00Z"}, "created"), ({"created": "0000-00-00T00:00:00Z"},
        "created"),
        ({"author": {}}, "author"), ({"rootfs": None}, "rootfs"), ({"rootfs": []}, "rootfs"),
        ({"rootfs": {}}, "layers"), ({"rootfs": {"diff_ids": "x"}}, "diff_ids"),
        ({"rootfs": {"diff_ids": [5]}}, "diff_ids"), ({"rootfs": {"diff_ids": ["sha256:../.."]}},
        "diff_ids"),
        ({"rootfs": {"diff_ids": ["sha256:" + "A" * 64]}}, "diff_ids"),
        ({"rootfs": {"diff_ids": ["sha256:" + "a" * 64 + "\n"]}}, "diff_ids"),
        ({"rootfs": {"diff_ids": [sha256(b"other")]}}, "its digest is"),
        ({"rootfs": {"diff_ids": []}}, "layers"), ({"x": [[[[]]]], "history": 5}, TAKEN),
    )
] + [
    row("config nested 100,000 deep", "", functools.partial(
        docker, Image((tar(),), run={"x": 1}), extra=(Item(b"0.json",
        b'{"x":' + b"[" * 100_000),))),
]  # fmt: skip

INDEXES = [
    row(f"index.json {text[:40]!r}", refusal, Blobs().archive, text)
    for text, refusal in (
        (b"", "index.json"), (b"[]", "Expected `object`"), (b'"x"', "Expected `object`"),
        (b"null", "Expected `object`"), (b"5", "Expected `object`"), (b"{}", "no `manifests`"),
        (b'{"manifests":5}', "manifests"), (b'{"manifests":{}}', "manifests"),
        (b'{"manifests":[5]}', "manifests[0]"), (b'{"manifests":[{}]}', "digest"),
        (b'{"manifests":[{"digest":5}]}', "digest"), (b'{"manifests":null}', "no `manifests`"),
        (b'{"manifests":[{"digest":"sha256:../../../outside/file"}]}', "digest"),
        (b'{"manifests":[]}', "names no image"), (b"[" * 100_000, "index.json"),
    )
] + [
    row(f"index entry {json.dumps(more)[:40]}", refusal, Blobs().archive,
        {"manifests": [{**OCI_IMAGE, **more}]})
    for more, refusal in (
        ({}, "no file"), ({"platform": 5}, "platform"), ({"platform": {"os": 5}}, "platform.os"),
        ({"annotations": []}, "annotations"), ({"annotations": {"a": 5}}, "annotations"),
        ({"mediaType": 5}, "mediaType"),
    )
] + [
    row("index nested 8 wide, 5 deep", "nested more than", _nested_index, 8, 5),
    row("index nested 100 wide, 3 deep", "more than", _nested_index, 100, 3),
    row("index nested 3 wide, 2 deep", TAKEN, _nested_index, 3, 2),
    row("index of itself", "another digest", _index_of_itself),
    row("image for another machine", "is for 'linux/s390x', and this host is", _foreign,
        {"os": "linux", "architecture": "s390x"}),
    row("image for another system", "is for 'windows/", _foreign,
        {"os": "windows", "architecture": ARCHITECTURE}),
    row("only what a builder attests", "names no image", _foreign,
        {"os": "unknown", "architecture": "unknown"}),
    row("oci image with a wrong layer", "its digest is", oci,
        Image((tar(),), config={"rootfs": {"diff_ids": [sha256(b"other")]}})),
    row("oci image with a wrong count of layers", "layers", oci,
        Image((tar(),), manifest={"layers": []})),
    row("oci image without a config", "neither an index", oci,
        Image((tar(),), manifest={"config": None})),
    row("oci image with layers of a wrong type", "layers", oci,
        Image((tar(),), manifest={"layers": {"a": 1}})),
    row("oci image", TAKEN, oci, Image((tar(Item(b"a", b"x")),), compression="gzip")),
]  # fmt: skip

KNOWN = (
    *WHITEOUTS, *NAMES, *NUMBERS, *SPARSE, *STREAMS, *MANIFESTS, *CONFIGS, *INDEXES,
)  # fmt: skip
