"""Errors of a pull: before any line of progress, and in words without skopeo's own."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from weft.errors import NotFound, OperationFailed
from weft.runtime.images import ImageStore
from weft.runtime.skopeo import Registry, digest_of, translate_error


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            'time="…" level=fatal msg="Error parsing image name \\"docker://r.example/x:1\\": pinging'
            ' container registry r.example: Get \\"https://r.example/v2/\\": dial tcp: no such host"',
            'Get "https://r.example/v2/": dial tcp: no such host',
        ),
        (
            'level=fatal msg="initializing source docker://r.example/x:1: pinging container registry'
            ' r.example:5000: Get \\"http://r.example:5000/v2/\\": refused"',
            'Get "http://r.example:5000/v2/": refused',
        ),
        ('level=fatal msg="disk: full"', "disk: full"),
    ],
)
def test_the_cause_is_shown_without_the_steps_to_it(said: str, cause: str) -> None:
    assert str(translate_error(said, "r.example/x", "1")) == f"cannot pull r.example/x:1: {cause}"


@pytest.mark.parametrize("error", [NotFound("denied"), OperationFailed("unreachable")])
def test_an_image_that_the_registry_lacks_is_an_error_before_any_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """So the API can answer with a status."""

    async def nothing(*_: object) -> str:
        raise error

    monkeypatch.setattr(Registry, "digest", nothing)

    async def main() -> list[str]:
        lines = []
        with pytest.raises(type(error)):
            async for line in ImageStore(tmp_path / "images", lambda: 1).pull("x:1"):
                lines.append(line)
        return lines

    assert asyncio.run(main()) == []


def test_an_image_that_is_pulled_by_its_digest_gets_no_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services name both: the digest counts."""
    config = msgspec.json.encode({"os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
    manifest = msgspec.json.encode(
        {"schemaVersion": 2, "config": {"digest": digest_of(config), "size": 1}, "layers": []}
    )

    async def digest(self: Registry, *_: object) -> str:
        return digest_of(manifest)

    async def fetch(self: Registry, name: str, digest: str, directory: Path, *_: object) -> None:
        (directory / "manifest.json").write_bytes(manifest)
        (directory / digest_of(config).removeprefix("sha256:")).write_bytes(config)

    monkeypatch.setattr(Registry, "digest", digest)
    monkeypatch.setattr(Registry, "fetch", fetch)
    whole = f"x@{digest_of(manifest)}"

    async def main() -> None:
        store = ImageStore(tmp_path / "images", lambda: 1)
        (tmp_path / "images" / "layers").mkdir()
        for names in ((), ("x:2",)):
            for name in (f"x:1@{digest_of(manifest)}", *names):
                assert [line async for line in store.pull(name)]
            image = store.find(f"x:1@{digest_of(manifest)}")
            assert (image.tags, image.digests) == (names, (whole,))

    asyncio.run(main())
