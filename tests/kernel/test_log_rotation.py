"""The log files of real containers: what conmon and the daemon make of them together."""

import asyncio
from pathlib import Path

import msgspec

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, appears, configure, with_runtime
from weft.model.container import Container, ContainerConfig
from weft.runtime.conmon import ConmonRuntime

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive

LINES = 200_000
FAST = (
    f"i=0; while [ $i -lt {LINES} ]; do seq $((i+1)) $((i+20000)); i=$((i+20000)); sleep 0.06; done"
)
"""Writes as fast as it can, in ten bursts of a megabyte as conmon writes them."""


def logged(driver: str, script: str, **options: str) -> ContainerConfig:
    named = {name.replace("_", "-"): value for name, value in options.items()}
    config = configure("sh", "-c", script)
    return msgspec.structs.replace(config, log_driver=driver, log_options=named)


async def run(runtime: ConmonRuntime, config: ContainerConfig) -> Container:
    await runtime.create(config)
    return await runtime.start(config.id)


def files_of(host: Host, config: ContainerConfig) -> list[Path]:
    """Without `log`, which is a second name of one of them."""
    found = (host.data / "containers" / config.id).glob("log.*")
    return sorted(found, key=lambda path: int(path.name.split(".")[1]))


async def numbers(
    runtime: ConmonRuntime,
    config: ContainerConfig,
    *,
    follow: bool = False,
    tail: int | None = None,
) -> list[int]:
    data = [line.data async for line in runtime.logs(config.id, follow=follow, tail=tail)]
    return [int(number) for number in b"".join(data).split()]


@with_runtime
async def test_no_line_is_lost_or_doubled_while_files_are_changed(
    runtime: ConmonRuntime, host: Host
) -> None:
    """A follower that begins with the container reads every line of a fast writer, over all files;
    each file kept is whole."""
    config = logged("json-file", FAST, max_size="200k", max_file="1000")
    await runtime.create(config)
    following = asyncio.create_task(numbers(runtime, config, follow=True))
    await runtime.start(config.id)
    assert await following == list(range(1, LINES + 1))
    await runtime.wait(config.id)
    assert await numbers(runtime, config) == list(range(1, LINES + 1))
    assert len(files_of(host, config)) > 3
    last = await numbers(runtime, config, tail=LINES // 2)
    assert last == list(range(LINES // 2 + 1, LINES + 1))


@with_runtime
async def test_the_newest_files_are_kept_and_compressed(runtime: ConmonRuntime, host: Host) -> None:
    config = logged("json-file", FAST, max_size="200k", max_file="3", compress="true")
    await run(runtime, config)
    await runtime.wait(config.id)
    kept = await numbers(runtime, config)
    assert kept == list(range(kept[0], LINES + 1))
    assert 1 < kept[0] < LINES - 2 * 200_000 // 60
    assert len(files_of(host, config)) == 3
    await runtime.start(config.id)
    await runtime.wait(config.id)
    again = await numbers(runtime, config)
    assert again[-LINES // 10 :] == list(range(LINES - LINES // 10 + 1, LINES + 1))
    assert [path.suffix for path in files_of(host, config)][:1] == [".gz"]


def test_conmon_bounds_the_log_while_no_daemon_runs(host: Host) -> None:
    """A container that writes on when the daemon has gone; the next daemon finds the lines from
    before, and the newest."""
    script = (
        "echo begin; sleep 0.5; head -c 150000000 /dev/zero | tr '\\0' x | fold -w 8000; echo end"
    )
    config = logged("local", script, max_size="1m", compress="false")
    directory = host.data / "containers" / config.id

    async def first() -> None:
        runtime = await host.runtime()
        await run(runtime, config)
        async for _ in runtime.logs(config.id, follow=True):
            break
        await runtime.close()

    async def second() -> tuple[int, list[bytes]]:
        await appears(directory / config.id)
        sizes = {path.stat().st_ino: path.stat().st_size for path in directory.glob("log*")}
        runtime = await host.runtime()
        lines = [line.data async for line in runtime.logs(config.id)]
        await runtime.remove(config.id)
        await runtime.close()
        return sum(sizes.values()), lines

    asyncio.run(first())
    size, lines = asyncio.run(second())
    assert size < 2 * (1_000_000 + (64 << 20))
    assert (lines[0], lines[-1]) == (b"begin\n", b"end\n")
