"""The fake kernel of the tests against a real one: the same operations, then the same reading
(`kernel_pair.py`)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.linux import netns

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def host() -> Iterator[Path]:
    """A namespace that stands for a host, with an uplink."""
    name = f"wffake{os.getpid()}"
    setup = (
        "link set lo up",
        "link add ens160 type veth peer name other",
        "address add 10.59.72.11/24 dev ens160",
        "link set ens160 up",
        "link set other up",
    )
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for words in setup:
            subprocess.run(["ip", "-n", name, *words.split()], check=True)
        yield Path("/run/netns") / name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_the_fake_behaves_like_the_real_one(host: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("kernel_pair.py")
    words = ["nsenter", f"--net={host}", sys.executable, str(script), str(tmp_path)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    finally:
        for file in tmp_path.iterdir():
            netns.remove(file)
