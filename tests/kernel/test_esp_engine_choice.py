"""What a former daemon's other ESP engine has left is ended by the next daemon: the process that holds the ledger of numbers, and
the kernel's policies, which refuse plain networks."""

import asyncio
import fcntl
import os
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tests.kernel.throwaway import in_throwaway, sh
from weft.daemon.esp_engine import end_others
from weft.daemon.options import DaemonOptions
from weft.linux.esp.client import UserspaceEngine
from weft.linux.netlink import xfrm
from weft.linux.netlink.socket import NETLINK_XFRM, NetlinkSocket
from weft.linux.netlink.xfrm import Policy, Template
from weft.linux.xfrm import KernelEngine
from weft.model.encryption import Association, Protection
from weft.network.ownership import CLEAR_MARK, ESP_MARK

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
A, B = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
OWN_ADDRESS = f"ip link set lo up && ip address add {A}/32 dev lo"
PROTECTION = Protection(
    local=A,
    port=4789,
    vnis={4097: 64},
    outbound=(Association(spi=0x1234, source=A, destination=B, key=bytes(20), tag=1),),
    inbound=(Association(spi=0x1235, source=B, destination=A, key=bytes(20), tag=1),),
)


def options(directory: Path) -> DaemonOptions:
    return DaemonOptions(
        data_root=directory / "data", run_dir=directory / "run", netns_dir=directory / "netns"
    )


@in_throwaway
def test_the_process_ends_if_the_kernel_is_chosen(tmp_path: Path) -> None:
    sh(OWN_ADDRESS)
    used = options(tmp_path)
    state = used.data_root / "esp"

    async def scene() -> None:
        former = UserspaceEngine(used.run_dir, state)
        await former.apply(PROTECTION)
        await former.close()
        chosen = KernelEngine(state)
        await end_others(used, chosen)
        await chosen.close()
        with pytest.raises(OSError):
            await asyncio.open_unix_connection(used.run_dir / "esp.sock")
        with (state / "esp-ledger.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    asyncio.run(scene())


@in_throwaway
def test_the_chosen_process_goes_on_and_the_kernels_policies_end(tmp_path: Path) -> None:
    sh(OWN_ADDRESS)
    used = options(tmp_path)
    host, port = IPv4Network(A), 4789
    left = [
        Policy(xfrm.OUT, host, IPv4Network("0.0.0.0/0"), port, 10, CLEAR_MARK),
        Policy(xfrm.OUT, host, IPv4Network("0.0.0.0/0"), port, 40, None, Template(ESP_MARK, 1)),
    ]
    foreign = Policy(xfrm.OUT, host, IPv4Network("10.0.0.9/32"), port, 5, None, Template(5))
    channel = NetlinkSocket(NETLINK_XFRM)
    assert channel.execute([xfrm.set_policy(policy) for policy in (*left, foreign)]) == {}
    channel.close()

    async def scene() -> None:
        engine = UserspaceEngine(used.run_dir, used.data_root / "esp")
        try:
            await engine.apply(PROTECTION)
            await end_others(used, engine)
            assert await engine.implementation() is not None
        finally:
            await engine.apply(None)
            await engine.close()

    asyncio.run(scene())
    shown = subprocess.run(["ip", "xfrm", "policy"], capture_output=True, text=True, check=True)
    assert shown.stdout.count("dir ") == 1
    assert "10.0.0.9" in shown.stdout
