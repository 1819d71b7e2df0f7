"""Hostile image archives against a real image store: `python -m tests.hostile.archives`.

    --count N   so many archives that a generator makes, after those of the table
    --seed N    of the generator: the same number makes the same archives
    --keep DIR  where an archive that did harm is written
    --in DIR    where the store is; best in memory, since an image that is kept waits for the disk

After each archive: the answer is success, or an error of a kind that is the caller's to read; files
beside the store and in the layers of another image are as before; nothing is left over; the store
can be opened again and has that other image. Needs root: layers have devices.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.hostile.image_archives import COMPRESSIONS, Blobs, Image, Json, docker, named, oci
from tests.hostile.known_archives import EITHER, KNOWN, Known
from tests.hostile.tars import Item, tar
from weft.errors import InvalidArgument, OperationFailed, WeftError
from weft.runtime.images import ImageStore

MEMORY = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
GOOD_TAG = "good:1"
LONGEST_MESSAGE = 1000
Random = random.Random


class Harm(AssertionError):
    """An archive did what it must not."""


# the generator

NAMES = (
    b"a", b"d", b"d/a", b"d/e/f", b"way", b"way/a", b"way/../../a", b"../../outside/file", b"/",
    b"",
    b".", b"..", b".wh.a", b".wh...", b".wh.", b".wh..wh..opq", b"d/.wh..", b"d/.wh..wh..opq",
    b".wh.d", b"way/.wh.outside", b"{outside}/file", b"x" * 100, b"d/" * 40 + b"a", b"\xff\xfe",
    b"a\nb", b"layers", b"index.json", b"sibling",
)  # fmt: skip
TARGETS = (
    b"a", b"d", b"..", b"/", b"../../../..", b"{outside}", b"{outside}/file", b"way", b"", b"/proc",
    b"/proc/self/fd/3", b"../../layers", b"d/e", b"x" * 99, b".wh.a",
)  # fmt: skip
PLAIN_NAMES = (b"a", b"d", b"d/a", b"d/e", b"d/e/f", b"way", b"sibling", b"d/.wh.a", b".wh.b")
TYPES = b"0" * 12 + b"5" * 8 + b"2" * 8 + b"1" * 6 + b"3467SxgLKVDZ\0"
NUMBERS = (
    0, 1, -1, 7, 0o7777, 2**16, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64,
    -(2**63),
    b"", b"        ", b"9999999", b"-1", b"+1", b"0x1", b"1_0", b"\x80", b"\xff" * 12, b"\0" * 12,
)  # fmt: skip
PAX_KEYS = (
    b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"SCHILY.xattr.user.a", b"comment",
    b"SCHILY.xattr.trusted.overlay.opaque", b"SCHILY.xattr.trusted.overlay.redirect",
    b"SCHILY.xattr.security.capability", b"SCHILY.xattr.", b"GNU.sparse.major", b"GNU.sparse.minor",
    b"GNU.sparse.size", b"GNU.sparse.map", b"GNU.sparse.offset", b"GNU.sparse.numbytes",
    b"GNU.sparse.realsize", b"GNU.sparse.name", b"hdrcharset", b"",
)  # fmt: skip
PAX_VALUES = (
    b"", b"0", b"1", b"-1", b"5", b"1.5", b"nan", b"inf", b"1e9", b"a\0b", b"9" * 19, b"9" * 400,
    b"../../outside/file", b"{outside}/file", b"d/.wh...", b"0,5", b"0,1,3,2", b"x=y\n", b"\xff",
    b"4294967295", b"x" * 300, b"d/" * 1000 + b"a",
)  # fmt: skip
VALUES: tuple[Json, ...] = (
    None, True, 0, -1, 5, 2**64, 1.5, 1e300, "", "x", "\0", "../../outside/file", "x" * 5000,
    "sha256:" + "0" * 64, [], [None], [5], ["a", 5], [[]], {}, {"a": 5}, {"": None}, {"a": {}},
)  # fmt: skip
REPLACED = b'{"x":[0]}\n\x00\xff/.'


def generated(seed: int, number: int, outside: str) -> tuple[str, bytes]:
    """The archive of that number, and how it was made."""
    rng = random.Random(f"{seed}/{number}")
    images = [_image(rng, outside) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    make = rng.choice((_docker, _docker, _oci))
    data = make(rng, images)
    story = [make.__name__.strip("_"), f"{len(images)} images"]
    if rng.random() < 0.15:
        name, compress = rng.choice(list(COMPRESSIONS.items()))
        data = compress(data)
        story.append(name)
    for _ in range(rng.choice((0,) * 12 + (1, 1, 1, 2))):
        change = rng.choice(BYTE_CHANGES)
        data = change(rng, data)
        story.append(change.__name__.strip("_"))
    return f"{seed}/{number}: {', '.join(story)}", data


def _image(rng: Random, outside: str) -> Image:
    layers = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        hostile = rng.choice((0, 0, 1, 1, 2, 5))
        items = [_plain(rng) for _ in range(rng.randrange(5))]
        for _ in range(hostile):
            items.insert(rng.randrange(len(items) + 1), _hostile(rng, outside))
        data = tar(*items)
        if rng.random() < 0.05:
            data = rng.choice(BYTE_CHANGES)(rng, data)
        layers.append(data)
    image = Image(tuple(layers), compression=rng.choice(("plain", "plain", *COMPRESSIONS)))
    if rng.random() < 0.06:
        key = rng.choice(("architecture", "os", "created", "author", "config", "rootfs", "x"))
        image = image._replace(config={key: rng.choice(VALUES)})
    if rng.random() < 0.06:
        key = rng.choice(("Cmd", "Env", "Labels", "User", "ExposedPorts", "Volumes", "Entrypoint"))
        image = image._replace(run={key: rng.choice(VALUES)})
    if rng.random() < 0.06:
        image = image._replace(tags=rng.choice((None, (), ("A",), ("x:1", "x:1"), (5,), ("x@y",))))
    return image


def _plain(rng: Random) -> Item:
    """As honest images have them, by names that hostile entries use too."""
    name, content = rng.choice(PLAIN_NAMES), rng.randbytes(rng.choice((0, 1, 511, 512, 2000)))
    return rng.choice(
        (
            Item(name, content),
            Item(name, type=b"5", mode=0o755),
            Item(name, type=b"2", target=b"a"),
            Item(name, content, uid=1000, gid=50, mode=0o4755),
            Item(name, type=b"3", minor=3, major=1),
        )
    )


def _hostile(rng: Random, outside: str) -> Item:
    """Odd at least in its name, its target or its type."""
    kind = rng.choice(TYPES)
    item = Item(
        rng.choice(NAMES),
        rng.randbytes(rng.choice((0, 1, 5, 511, 512, 513, 2000))),
        bytes((kind,)),
        rng.choice(TARGETS),
    )
    if kind not in b"0xgLKS7":
        item = item._replace(content=b"")
    for field in ("mode", "uid", "gid", "size", "mtime", "major", "minor"):
        if rng.random() < 0.04:
            number: Any = rng.choice(NUMBERS)
            item = item._replace(**{field: number})
    if rng.random() < 0.15:
        pairs = [(rng.choice(PAX_KEYS), rng.choice(PAX_VALUES)) for _ in range(rng.randrange(1, 4))]
        item = item._replace(pax=tuple((key, _at(value, outside)) for key, value in pairs))
    if rng.random() < 0.05:
        item = item._replace(long_name=_at(rng.choice((*NAMES, *PAX_VALUES)), outside))
    if rng.random() < 0.05:
        item = item._replace(long_target=_at(rng.choice((*TARGETS, *PAX_VALUES)), outside))
    if rng.random() < 0.05:
        item = item._replace(magic=rng.choice((b"ustar  \0", b"", b"ustar\x00\xff")))
    if rng.random() < 0.03:
        item = item._replace(raw=((rng.randrange(512), rng.randbytes(rng.randrange(1, 9))),))
    if rng.random() < 0.02:
        item = item._replace(checksum=b"0")
    return item._replace(name=_at(item.name, outside), target=_at(item.target, outside))


def _at(text: bytes, outside: str) -> bytes:
    return text.replace(b"{outside}", outside.encode())


def _docker(rng: Random, images: list[Image]) -> bytes:
    extra: tuple[Item, ...] = ()
    if rng.random() < 0.1:
        name = rng.choice((b"manifest.json", b"0.json", b"0.0/layer.tar", b"x"))
        extra = (Item(name, b"[]", rng.choice((b"0", b"1", b"2", b"5")), rng.choice(TARGETS)),)
    if rng.random() < 0.1:
        written = [{"Config": "0.json", "RepoTags": ["x:1"], "Layers": ["0.0/layer.tar"]}]
        return docker(*images, manifest=json.dumps(_odd(rng, written)).encode(), extra=extra)
    return docker(*images, extra=extra)


def _oci(rng: Random, images: list[Image]) -> bytes:
    if rng.random() < 0.8:
        return oci(*(image._replace(tags=("hostile:1",)) for image in images))
    blobs = Blobs()
    manifests = [blobs.add_image(image, **named("hostile:2")) for image in images]
    return blobs.archive(_odd(rng, {"schemaVersion": 2, "manifests": manifests}))


def _odd(rng: Random, document: Json) -> Json:
    """The document with a value somewhere in it replaced, or taken away."""
    if isinstance(document, dict) and document and rng.random() < 0.8:
        key = rng.choice(list(document))
        if rng.random() < 0.1:
            return {name: value for name, value in document.items() if name != key}
        return document | {key: _odd(rng, document[key])}
    if isinstance(document, list) and document and rng.random() < 0.8:
        place = rng.randrange(len(document))
        return [*document[:place], _odd(rng, document[place]), *document[place + 1 :]]
    return rng.choice(VALUES)


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _cut_out(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 100, 512, 1024)) :]


def _overwrite(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((rng.randrange(256), *REPLACED))
    return bytes(changed)


def _zero(rng: Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data) + 1), rng.choice((1, 8, 512, 4096))
    return data[:start] + b"\0" * len(data[start : start + length]) + data[start + length :]


def _double(rng: Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data) + 1), rng.choice((1, 512, 1024))
    return data[: start + length] + data[start:]


def _append(rng: Random, data: bytes) -> bytes:
    return data + rng.choice((b"garbage", b"\0" * 700, data, rng.randbytes(1000)))


BYTE_CHANGES: tuple[Callable[[Random, bytes], bytes], ...] = (
    _cut, _cut_out, _overwrite, _zero, _double, _append,
)  # fmt: skip


# the store, and what is around it


class Report(NamedTuple):
    taken: int
    refused: int
    slowest: float
    """Seconds."""


class Target:
    """An image store with a good image in it, and files around it that no archive may touch."""

    def __init__(self, directory: Path) -> None:
        self.outside = directory / "outside"
        (self.outside / "dir").mkdir(parents=True)
        for name in ("file", "dir/file"):
            (self.outside / name).write_text(f"the host's {name}")
        self._root = directory / "images"
        self._directory = directory
        self.store = ImageStore(self._root, time.time_ns)

    async def prepare(self) -> None:
        good = Image((tar(Item(b"etc", type=b"5"), Item(b"etc/good", b"good")),), (GOOD_TAG,))
        await self.store.load(_chunks(docker(good)))
        self._good = self.store.find(GOOD_TAG)
        self._environment = self._look_around()

    async def take(self, data: bytes) -> WeftError | None:
        """The refusal of an archive, or None if it was taken. Raises `Harm`."""
        refusal = None
        try:
            names = await self.store.load(_chunks(data))
        except (InvalidArgument, OperationFailed) as error:
            refusal = error
            self._check_message(str(error))
        except BaseException as error:
            raise Harm(f"{type(error).__name__}: {error}") from error
        else:
            if not names:
                raise Harm("it was taken, and nothing was loaded")
        self._check_around()
        await self._check_store_and_clear()
        return refusal

    def _check_message(self, message: str) -> None:
        if len(message) > LONGEST_MESSAGE or not message.startswith("cannot "):
            raise Harm(f"its message is {message!r}")
        if not message.isprintable():
            raise Harm(f"its message has control characters: {message!r}")

    async def _check_store_and_clear(self) -> None:
        """Another daemon would find the same; without the new images it is as before."""
        again = ImageStore(self._root, time.time_ns)
        if again.all() != self.store.all() or again.find(GOOD_TAG) != self._good:
            raise Harm("the store is another when it is opened again")
        self._check_layers()
        for image in self.store.all():
            if image.id != self._good.id:
                await self.store.remove(image.id, force=True)
        if self.store.all() != [self._good]:
            raise Harm(f"images are left: {self.store.all()}")
        self._check_layers()

    def _check_layers(self) -> None:
        used = {digest[7:] for image in self.store.all() for digest in image.layers}
        there = {path.name for path in (self._root / "layers").iterdir()}
        if there != {f"{name}{end}" for name in used for end in ("", ".size", ".outline")}:
            raise Harm(f"the layers are {sorted(there)}, and the images have {sorted(used)}")
        left = list((self._root / "tmp").glob("*"))
        if left:
            raise Harm(f"left over: {left}")
        for image in self.store.all():
            for path in self.store.layer_directories(image):
                if not path.is_dir() or path.is_symlink():
                    raise Harm(f"layer {path} is no directory")

    def _check_around(self) -> None:
        now = self._look_around()
        if now != self._environment:
            changed = [
                name
                for name in {*now, *self._environment}
                if now.get(name) != self._environment.get(name)
            ]
            raise Harm(f"changed: {sorted(changed)[:10]}")

    def _look_around(self) -> dict[str, object]:
        """The files outside, and those of the good image's layers; names and attributes of the
        directories around them."""
        found: dict[str, object] = {
            str(path): (
                os.listxattr(path), path.stat().st_mode,
                sorted(name for name in os.listdir(path) if not name.startswith("index.json")),
            )
            for path in (self._directory, self._root)
        }  # fmt: skip
        layers = self._root / "layers"
        found[str(layers)] = os.listxattr(layers), layers.stat().st_mode
        for top in (self.outside, *self.store.layer_directories(self._good)):
            for path in (top, *top.rglob("*")):
                status = path.lstat()
                found[str(path)] = (
                    status.st_mode,
                    status.st_uid,
                    status.st_gid,
                    status.st_nlink,
                    status.st_mtime_ns,
                    os.listxattr(path, follow_symlinks=False),
                    path.read_bytes() if stat.S_ISREG(status.st_mode) else b"",
                )
        return found


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 16):
        yield data[start : start + (1 << 16)]


async def run_known(target: Target, known: Known) -> None:
    """Raises `Harm` if it did any, or was not answered as the table says."""
    refusal = await target.take(known.archive(str(target.outside)))
    if known.refusal == EITHER:
        return
    if known.refusal is None and refusal is not None:
        raise Harm(f"{known.name}: refused: {refusal}")
    said = str(refusal) if isinstance(refusal, InvalidArgument) else ""
    if known.refusal is not None and (not said or known.refusal not in said):
        raise Harm(f"{known.name}: {refusal!r} does not say {known.refusal!r}")


async def run_generated(target: Target, seed: int, count: int, keep: Path | None = None) -> Report:
    taken = refused = 0
    slowest = 0.0
    for number in range(count):
        story, data = generated(seed, number, str(target.outside))
        began = time.monotonic()
        try:
            refusal = await target.take(data)
        except Harm as harm:
            if keep is not None:
                (keep / f"{seed}-{number}.tar").write_bytes(data)
            raise Harm(f"{story}: {harm}") from harm
        slowest = max(slowest, time.monotonic() - began)
        taken, refused = taken + (refusal is None), refused + (refusal is not None)
    return Report(taken, refused, slowest)


async def _main(count: int, seed: int, keep: Path, directory: Path) -> None:
    target = Target(directory)
    await target.prepare()
    for known in KNOWN:
        await run_known(target, known)
    report = await run_generated(target, seed, count, keep)
    print(
        f"{len(KNOWN)} known archives and {count} of seed {seed}: {report.taken} taken,"
        f" {report.refused} refused, the slowest in {report.slowest:.2f} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile image archives against a real store.")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--in", dest="directory", type=Path, default=MEMORY)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="weft-hostile-", dir=options.directory))
    try:
        asyncio.run(_main(options.count, options.seed, options.keep, directory))
    except Harm as harm:
        print(harm, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
