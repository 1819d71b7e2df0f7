"""XFRM policies on this machine's kernel, with iproute2 as the witness, and the question whether it
has ESP. States need ESP: they are tested in a guest that has it (tests/vm)."""

import asyncio
import os
import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from weft.errors import OperationFailed
from weft.linux import netns
from weft.linux.netlink import xfrm
from weft.linux.netlink.socket import NETLINK_XFRM, NetlinkSocket
from weft.linux.netlink.xfrm import Policy, Template
from weft.linux.xfrm import KernelEngine, why_not
from weft.model.encryption import Association, Protection

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

A, B = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
PROTECTION = Protection(
    local=A,
    port=4790,
    vnis={4097: 64},
    outbound=(Association(spi=0x1234, source=A, destination=B, key=bytes(20), tag=1),),
    inbound=(Association(spi=0x1235, source=B, destination=A, key=bytes(20), tag=1),),
)
FOREIGN = (
    "ip xfrm policy add dir out src 10.0.0.1/32 dst 10.0.0.9/32 proto udp dport 4790 tmpl proto esp"
    " reqid 5 mode transport"
)


def shown() -> str:
    return subprocess.run(
        ["ip", "xfrm", "policy"], capture_output=True, text=True, check=True
    ).stdout


def test_policies_that_we_set_iproute2_reads_and_so_do_we() -> None:
    policy = Policy(
        xfrm.OUT,
        IPv4Network(A),
        IPv4Network(B),
        4790,
        30,
        0xD0C4E4,
        Template(0xD0C4E4, 0x1234, A, B),
    )

    def here() -> None:
        channel = NetlinkSocket(NETLINK_XFRM)
        try:
            assert (
                channel.execute(
                    [xfrm.set_policy(policy), xfrm.set_policy(policy._replace(priority=31))]
                )
                == {}
            )
            assert "src 10.0.0.1/32 dst 10.0.0.2/32 proto udp dport 4790" in shown()
            assert "priority 31" in shown()
            assert "mark 0xd0c4e4/0xffffffff" in shown()
            assert [xfrm.decode_policy(body) for body in channel.dump(*xfrm.dump_policies())] == [
                policy._replace(priority=31)
            ]
            assert channel.execute([xfrm.remove_policy(policy)]) == {}
            assert shown() == ""
        finally:
            channel.close()

    netns.run_in_throwaway(here)


def test_a_kernel_without_esp_is_told_and_what_could_not_be_sealed_stays_shut(
    tmp_path: Path,
) -> None:
    reason = why_not()
    if reason is None:
        pytest.skip("this kernel has ESP")
    assert "the kernel" in reason

    async def tried() -> None:
        engine = KernelEngine(tmp_path)
        try:
            with pytest.raises(OperationFailed, match="cannot apply ESP protection: "):
                await engine.apply(PROTECTION)
            assert "dir out priority 40" in shown()
            assert "dir in priority 40" in shown()
            await engine.apply(None)
            assert shown().count("dir ") == 1
            assert "reqid 5 " in shown()
        finally:
            await engine.close()

    def here() -> None:
        subprocess.run(FOREIGN.replace("proto udp", "proto 17").split(), check=True)
        asyncio.run(tried())

    netns.run_in_throwaway(here)


def test_purging_the_package_removes_all_policies_of_the_engine_and_no_other(
    tmp_path: Path,
) -> None:
    """A policy that stays would refuse the VXLAN of whatever comes after Weft."""
    script = Path(__file__).parents[2] / "packaging/debian/postrm"
    ends = IPv4Network(A), IPv4Network(B)
    to_peer = [
        Policy(xfrm.OUT, *ends, 4790, 30, None, Template(0xD0C4E3, 0x1234, A, B)),
        Policy(xfrm.OUT, *ends, 4790, 20, 0xD0C4E4, Template(0xD0C4E4, 0x1236, A, B)),
    ]

    async def left_by_a_daemon() -> None:
        engine = KernelEngine(tmp_path)
        if why_not() is None:
            await engine.apply(PROTECTION)
        else:  # the policies that demand ESP come before the first state
            with pytest.raises(OperationFailed):
                await engine.apply(PROTECTION)
        await engine.close()

    def here() -> None:
        subprocess.run(FOREIGN.replace("proto udp", "proto 17").split(), check=True)
        before = shown()
        asyncio.run(left_by_a_daemon())
        channel = NetlinkSocket(NETLINK_XFRM)
        assert channel.execute([xfrm.set_policy(policy) for policy in to_peer]) == {}
        channel.close()
        assert shown().count("dir ") == 8
        subprocess.run(["sh", "-c", f". {script}; remove_ipsec"], check=True)
        assert shown() == before

    netns.run_in_throwaway(here)
