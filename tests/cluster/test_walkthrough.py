"""The seed document, step by step, as the acceptance program carries it out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import Cluster, Names

ROOT = Path(__file__).parents[2]
PROGRAM = Path(
    os.environ.get("WALKTHROUGH", ROOT.parent / "shared" / "acceptance" / "walkthrough.py")
)


@pytest.fixture
def fresh(cluster: Cluster) -> Cluster:
    """The document speaks of the first networks of a new swarm: their VNIs are 4097 and 4098."""
    cluster.lab("down")
    cluster.lab("up")
    return cluster


@pytest.mark.skipif(not PROGRAM.exists(), reason=f"no {PROGRAM}")
def test_the_seed_document(fresh: Cluster, names: Names) -> None:
    # Removed even if a step fails.
    (
        names("webapp"),
        names("mon-overlay-demo"),
        names("mon-overlay-ipsec"),
    )
    environment = {
        **os.environ,
        "WEFT": fresh.weft[0],
        "DOCKER": shutil.which("docker") or "docker",
    }
    done = subprocess.run(
        [sys.executable, PROGRAM],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "24 passed, 0 failed", done.stdout + done.stderr
