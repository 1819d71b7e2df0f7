"""No archive does harm: those of the table, and 5,000 that a generator makes."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.archives import MEMORY, Target, run_generated, run_known
from tests.hostile.known_archives import KNOWN, Known

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
COUNT = 1000


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    directory = Path(tempfile.mkdtemp(prefix="weft-hostile-", dir=MEMORY))
    try:
        target = Target(directory)
        asyncio.run(target.prepare())
        yield target
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("known", KNOWN, ids=[known.name[:60] for known in KNOWN])
def test_a_known_archive_is_answered_and_does_no_harm(target: Target, known: Known) -> None:
    asyncio.run(run_known(target, known))


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_generated_archive_does_no_harm(target: Target, seed: int) -> None:
    report = asyncio.run(run_generated(target, seed, COUNT))
    assert report.taken > COUNT // 10, "too few are taken to say anything about layers"
    assert report.refused > COUNT // 10
