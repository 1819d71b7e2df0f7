"""What the plan writes is nftables text that nft itself accepts: checked by the real program,
nothing is applied.

`nft -c` asks the kernel about devices and features, so it runs in a namespace of its own with the
devices that chains name.
"""

import os
import subprocess
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.swarms import Swarm
from tests.unit.network.conftest import ENGINES, KEYS, Engine, swarms, told
from weft.network.diff import diff
from weft.network.kernel_state import KernelState, Table
from weft.network.operations import ReplaceTable
from weft.network.plan import plan

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"wfnft{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for one, other in (("eth0", "eth1"), ("eth2", "eth3")):
            subprocess.run(
                ["ip", "-n", name, "link", "add", one, "type", "veth", "peer", "name", other],
                check=True,
            )
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def check(namespace: str, script: str) -> str:
    """What nft says against it."""
    words = ["ip", "netns", "exec", namespace, "nft", "-c", "-f", "-"]
    done = subprocess.run(words, input=script, capture_output=True, text=True, check=False)
    return done.stderr


def script_of(operation: ReplaceTable) -> str:
    """What stands between the `<<END` and the `END` that a person would type."""
    return "\n".join(str(operation).splitlines()[1:-1])


@given(swarms(), st.sampled_from(ENGINES))
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
def test_every_table_of_a_plan(namespace: str, swarm: Swarm, engine: Engine) -> None:
    scripts = {
        script_of(operation)
        for node in (1, 2, 3)
        for operation in diff(KernelState({}), plan(*told(swarm, node, engine, KEYS)))
        if isinstance(operation, ReplaceTable)
    }
    for script in sorted(scripts):
        assert check(namespace, script) == "", script


def test_nft_would_say_so(namespace: str) -> None:
    table = ReplaceTable("host", Table("ip", "weft", "chain x {\n nonsense\n}"))
    assert "syntax error" in check(namespace, script_of(table))
    assert (
        check(
            namespace,
            script_of(msgspec.structs.replace(table, table=Table("ip", "weft", "chain x { }"))),
        )
        == ""
    )
