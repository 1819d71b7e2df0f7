"""`docker top` with options of the client's own."""

import asyncio
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.unit.api.served import run_service, serving
from weft.api.processes import arguments, chosen
from weft.errors import InvalidArgument

PRINTED = (
    "USER       PID %CPU COMMAND\nroot        17  0.0 sh -c sleep 1\nroot       170  0.0 ps aux\n"
)


def test_only_the_containers_processes_are_shown() -> None:
    titles, rows = chosen(PRINTED, [17, 99])
    assert titles == ["USER", "PID", "%CPU", "COMMAND"]
    assert rows == [["root", "17", "0.0", "sh -c sleep 1"]]


@pytest.mark.parametrize("printed", ["", "USER COMMAND\nroot sh\n"])
def test_without_pids_nobody_can_tell_whose_processes_they_are(printed: str) -> None:
    with pytest.raises(InvalidArgument, match="couldn't find PID field"):
        chosen(printed, [1])


def test_no_other_column_is_called_pid() -> None:
    assert arguments(" -o pid,cmd ") == ["-o", "pid,cmd"]
    for text in ("-o ppid=PID", "-oargs=PID,cmd"):
        with pytest.raises(InvalidArgument, match="is not allowed"):
            arguments(text)


def test_no_program_can_be_given_a_nul() -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        arguments("-e\0f")


def test_the_hosts_ps_is_asked_with_the_options(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "docker.sock") as (node, ask):
            container = await run_service(node, "sh", "-c", "exec sleep 60")
            url = f"/containers/{container}/top?ps_args="
            _, shown, _ = await ask("GET", url + quote("-e -o pid,ppid,args"))
            assert shown.get("Titles") == ["PID", "PPID", "COMMAND"]
            [[_, parent, command]] = shown["Processes"]
            assert (parent, "sleep 60" in command) == (str(os.getpid()), True)
            for bad in ("--no-such-option", "-o cmd", "-o pid=X"):
                status, _, _ = await ask("GET", url + quote(bad))
                assert status == 400, bad

    asyncio.run(main())
