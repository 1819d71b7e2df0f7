"""nftables from a process that has more descriptors open than select(2) can wait for, as the daemon
of a host with hundreds of containers. libnftables would end such a process."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PROGRAM = """
import os, resource
from weft.linux import netns
from weft.linux.nft import Nft
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
kept = [os.open("/dev/null", os.O_RDONLY) for _ in range({count})]
def inside():
    nft = Nft()
    nft.run("add table ip t")
    print(nft.listing("ip", "t").split())
    nft.close()
netns.run_in_throwaway(inside)
"""


@pytest.mark.parametrize("count", [0, 940, 1010, 1100])
def test_nftables_works_however_many_descriptors_are_open(count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(count=count)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "['table', 'ip', 't', '{', '}']\n"), done.stderr
