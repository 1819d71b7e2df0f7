"""`weft lab break`: the faults of its table are made, found by trace and doctor as the table says,
and taken back. One of each kind; those that Weft mends are in tests/kernel/test_trace.py."""

import json
from typing import Any

from tests.cluster.conftest import WEFT, Cluster, Names
from weft.lab.breaks import APP, FAULTS, NETWORK, WEB, Fault

SAMPLE = ("neighbour-removed", "vxlan-dropped-by-a-firewall", "two-hosts-with-one-address")


def told(cluster: Cluster, *argv: str) -> Any:
    words = [*WEFT, "lab", "exec", "node1", "--", *WEFT, *argv, "--json"]
    return json.loads(cluster.run(*words, ok=False).stdout)


def is_found(cluster: Cluster, fault: Fault) -> bool:
    """Whether trace and doctor say what the table says."""
    named = fault.trace
    if fault.undo and named is not None:
        found = told(cluster, "trace", APP, fault.target, "--port", "80")
        if named.kind is None:
            if named.words not in found["Probe"]["Verdict"]:
                return False
        elif not any(
            each["Kind"] == named.kind and named.words in f"{each['Words']}: {each['Missing']}"
            for each in found["Findings"]
        ):
            return False
    lines = [f"{each['What']}: {each['Cause']}" for each in told(cluster, "doctor")["Findings"]]
    return any(fault.doctor.partition("{")[0] in line for line in lines)


def test_what_is_broken_on_purpose_is_found(healthy: Cluster, names: Names) -> None:
    for name in (WEB, APP, NETWORK):
        names(name)
    assert all(name in healthy.lab("break") for name in SAMPLE)
    for name in SAMPLE:
        fault = FAULTS[name]
        assert fault.symptom in healthy.lab("break", name)
        try:
            assert fault.hint in healthy.lab("break", "--hint")
            healthy.eventually(lambda fault=fault: is_found(healthy, fault), 60)
        finally:
            undone = healthy.lab("break", "--undo")
        assert f"It was {name}" in undone
    done = healthy.run(*WEFT, "lab", "break", "--undo", ok=False)
    assert (done.returncode, "nothing is broken" in done.stderr) == (1, True)
