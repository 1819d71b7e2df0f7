"""Whole swarms, to which anything happens: nothing is ever given twice, nothing that was answered
is lost, and when nothing goes wrong any more everything is as its users asked.

Each run plays the same stories, and a few that no run had before (`tests/simulation/seeds.py`).
`WEFT_SIM_EXAMPLES=2000 pytest tests/sim/test_cluster_property.py` looks for longer, each time
elsewhere.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as fresh_seed
from hypothesis import strategies as st

from tests.simulation.cluster import SimCluster
from tests.simulation.seeds import FRESH, told
from tests.simulation.steps import (
    BreakWatches,
    Compact,
    CreateNetwork,
    CreateService,
    Cut,
    Delay,
    Die,
    GiveRole,
    Isolate,
    Kill,
    Leave,
    LoseAnswers,
    Make,
    Play,
    PowerOff,
    RemoveNetwork,
    RemoveService,
    Renew,
    Reset,
    RotateKeys,
    RotateRoot,
    Scale,
    SlowStore,
    Step,
    Update,
)
from tests.support import virtual_time
from weft.model.service import PublishedPort

EXAMPLES = int(os.environ.get("WEFT_SIM_EXAMPLES", "0"))
MEMORY = Path("/dev/shm")
"""Disks of hosts: an assignment is synced each time it is written."""

waits = st.sampled_from((0.0, 0.0, 0.003, 0.05, 0.5, 3.0, 8.0))
seconds = st.sampled_from((0.3, 2.0, 7.0, 25.0, 50.0))
moments = st.integers(0, 120).map(lambda n: n / 2000)
hosts = st.integers(0, 5)
names = st.integers(0, 2)
ports = st.sampled_from(
    (
        (),
        (PublishedPort(80, 8080),),
        (PublishedPort(80),),
        (PublishedPort(80, 8080), PublishedPort(53, 8053, "udp")),
    )
)
replicas = st.sampled_from((0, 1, 2, 3, 5))


def creation(
    ports: st.SearchStrategy[tuple[PublishedPort, ...]], start_first: bool
) -> st.SearchStrategy[CreateService]:
    return st.builds(
        CreateService,
        wait=waits,
        name=names,
        replicas=st.one_of(replicas, st.none()),
        networks=st.sampled_from(((), (0,), (1,), (0, 1))),
        ports=ports,
        start_first=st.just(start_first),
    )


host_port = (PublishedPort(80, 8090, mode="host"),)
"""Start-first needs a free host for it, which there may not be."""
creations = st.one_of(
    creation(ports, True), creation(ports, False), creation(st.just(host_port), False)
)
operations = st.one_of(
    creations,
    st.builds(Scale, wait=waits, name=names, replicas=replicas),
    st.builds(Update, wait=waits, name=names, value=st.integers(0, 3)),
    st.builds(RemoveService, wait=waits, name=names),
    st.builds(CreateNetwork, wait=waits, name=st.integers(0, 1)),
    st.builds(RemoveNetwork, wait=waits, name=st.integers(0, 1)),
    st.builds(
        Make,
        wait=waits,
        host=hosts,
        availability=st.sampled_from(("active", "active", "pause", "drain")),
    ),
    st.builds(RotateKeys, wait=waits),
    st.builds(RotateRoot, wait=waits),
    st.builds(
        GiveRole, wait=waits, host=hosts, role=st.sampled_from(("manager", "manager", "worker"))
    ),
    st.builds(Leave, wait=waits, host=hosts),
    st.builds(Renew, wait=waits, host=hosts),
)
faults = st.one_of(
    st.builds(Kill, wait=waits, host=hosts, after=moments, turns=st.integers(0, 6), down=seconds),
    st.builds(PowerOff, wait=waits, host=hosts, down=seconds),
    st.builds(Isolate, wait=waits, host=hosts, seconds=seconds),
    st.builds(Cut, wait=waits, host=hosts, other=hosts, seconds=seconds),
    st.builds(Reset, wait=waits, host=hosts, other=hosts),
    st.builds(
        Delay,
        wait=waits,
        host=hosts,
        other=hosts,
        by=st.sampled_from((0.05, 1.0, 4.0)),
        seconds=seconds,
    ),
    st.builds(
        SlowStore, wait=waits, host=hosts, latency=st.sampled_from((0.1, 0.6, 3.0)), seconds=seconds
    ),
    st.builds(LoseAnswers, wait=waits, host=hosts, times=st.integers(1, 4)),
    st.builds(BreakWatches, wait=waits, host=hosts),
    st.builds(Compact, wait=waits),
    st.builds(Die, wait=waits, host=hosts),
)
stories = st.tuples(
    st.lists(
        st.one_of(st.builds(CreateNetwork, name=st.integers(0, 1)), creations),
        min_size=2,
        max_size=5,
    ),
    st.lists(st.one_of(operations, faults), min_size=5, max_size=30),
).map(lambda parts: (*parts[0], *parts[1]))


def play(managers: int, workers: int, steps: Sequence[Step], seed: int = 0) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
            async with SimCluster.of(Path(directory), managers, workers, seed) as cluster:
                await Play(cluster).play(steps)

    with told(seed):
        virtual_time.run(main())


def thorough(examples: int, fixed: bool = True) -> settings:
    """`fixed`: the same examples in each run, unless it looks for longer."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=fixed and not EXAMPLES,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=[
            Phase.explicit,
            Phase.generate,
            *((Phase.shrink,) if EXAMPLES and "WEFT_SIM_NOSHRINK" not in os.environ else ()),
        ],
    )


@thorough(25)
@given(steps=stories, seed=st.integers(0, 1 << 16))
def test_three_managers(steps: Sequence[Step], seed: int) -> None:
    play(3, 3, steps, seed)


@thorough(30)
@given(steps=stories, seed=st.integers(0, 1 << 16))
def test_one_manager(steps: Sequence[Step], seed: int) -> None:
    play(1, 3, steps, seed)


@fresh_seed(FRESH)
@thorough(3, fixed=False)
@given(managers=st.sampled_from((1, 3)), steps=stories, seed=st.integers(0, 1 << 16))
def test_stories_that_no_run_had_before(managers: int, steps: Sequence[Step], seed: int) -> None:
    """The first example is always the least one."""
    play(managers, 3, steps, seed)


# --- what was found


def test_history_that_is_thrown_away_before_a_slow_watch_had_it() -> None:
    """The etcd in memory went on without what was missing, and that manager never learned of it.
    The real one ends such a watch."""
    play(
        3,
        3,
        (
            CreateNetwork(name=0),
            SlowStore(host=1, latency=0.1, seconds=0.3),
            CreateService(name=0, replicas=0),
            Compact(wait=0.05),
        ),
    )


def test_a_network_that_can_be_neither_completed_nor_taken_back() -> None:
    """Its creator was told of a full disk, as if there were no network; there was one when the disk
    had room again."""
    play(1, 3, (CreateNetwork(name=0), SlowStore(host=0, latency=0.1, seconds=25.0)))


def test_a_node_that_leaves_after_it_was_made_available() -> None:
    """It is drained by then, whatever its user had been told before."""
    play(3, 3, (Make(host=4, availability="active"), Leave(host=0, wait=1.0)))
    play(1, 3, (Make(host=2, availability="pause"), Leave(host=0, wait=1.0)))
