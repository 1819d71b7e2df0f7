"""Lines of containers in a real journal: systemd-journald in a mount namespace of its own, read by
journalctl."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.members import until
from tests.unit.runtime.test_log_forwarding import HOST, MOMENT, container
from weft.model.container import LogLine
from weft.model.logs import MAX_LINE
from weft.runtime.log_sinks import JournalSink

JOURNALD = Path("/lib/systemd/systemd-journald")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not JOURNALD.exists(), reason="needs root and systemd-journald"
    ),
]
BEGIN = f"""
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journald.conf.d /run/systemd/journal /run/log/journal
echo '[Journal]
Storage=volatile
Audit=no
ReadKMsg=no
ForwardToSyslog=no' > /run/systemd/journald.conf.d/test.conf
exec {JOURNALD}
"""


class Journal:
    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.socket = Path(f"/proc/{pid}/root/run/systemd/journal/socket")

    def read(self) -> list[dict[str, str]]:
        """The entries of containers, once all that was sent has been written."""
        way = ["nsenter", f"--target={self._pid}", "--mount", "journalctl"]
        subprocess.run([*way, "--sync"], check=True, timeout=20)
        words = ["--all", "--output=json", "CONTAINER_NAME=web.1.x"]
        done = subprocess.run([*way, *words], check=True, timeout=20, capture_output=True)
        return [json.loads(line) for line in done.stdout.splitlines()]


@asynccontextmanager
async def journal() -> AsyncIterator[Journal]:
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "sh", "-euc", BEGIN, stderr=asyncio.subprocess.DEVNULL
    )
    found = Journal(process.pid)
    try:
        await until(found.socket.exists, 20)
        yield found
    finally:
        process.kill()
        await process.wait()


def test_the_journal_has_the_lines_with_dockers_fields() -> None:
    async def main() -> None:
        options = {"labels": "team-name", "env": "LEVEL", "tag": "{{.Name}}/{{.ID}}"}
        subject = container("journald", **options)
        long = b"x" * MAX_LINE
        async with journal() as there:
            sink = JournalSink(subject, HOST, there.socket)
            texts = [(1, "grüße\n".encode()), (2, b"two = 2\tthree\n"), (1, long), (1, b"end\n")]
            for number, (stream, data) in enumerate(texts):
                await sink.send(LogLine(stream, MOMENT + number, data))
            entries = there.read()
        assert [entry["MESSAGE"] for entry in entries] == [
            "grüße", "two = 2\tthree", long.decode(), "end",
        ]  # fmt: skip
        assert [entry["PRIORITY"] for entry in entries] == ["6", "3", "6", "6"]
        partial = [entry.get("CONTAINER_PARTIAL_MESSAGE") for entry in entries]
        assert partial == [None, None, "true", None]
        tag = "web.1.x/0123456789ab"
        expected = {
            "CONTAINER_ID": "0123456789ab", "CONTAINER_ID_FULL": subject.id, "CONTAINER_TAG": tag,
            "SYSLOG_IDENTIFIER": tag, "IMAGE_NAME": "app:1", "TEAM_NAME": "blue", "LEVEL": "a=b",
        }  # fmt: skip
        assert all(expected.items() <= entry.items() for entry in entries)
        with pytest.raises(OSError, match="refused|No such file"):
            await sink.send(LogLine(1, MOMENT, b"nobody\n"))
        sink.close()

    asyncio.run(main())
