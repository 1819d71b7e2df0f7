"""The table of faults that are made on purpose: complete, and without the solution in the riddle."""

import re

import pytest

from weft.lab.breaks import FAULTS, LASTING, MENDED, Fault, filled

WORDS = {"address": "10.90.0.3", "mac": "02:42:0a:5a:00:03", "sender": "02:42:0a:5a:00:06"}


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len(FAULTS) == len(MENDED) + len(LASTING) >= 30
    assert all(not fault.undo for fault in MENDED)
    assert all(fault.undo for fault in LASTING), "nobody else takes them back"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_is_found_by_somebody_and_not_told_at_once(fault: Fault) -> None:
    assert fault.trace or fault.doctor
    assert fault.symptom.endswith(".")
    assert fault.hint
    assert fault.name.replace("-", " ") not in fault.symptom.lower()
    said = fault.trace.words if fault.trace is not None else ""
    for text in (*fault.commands, *fault.undo, said, fault.doctor):
        assert not re.search(r"\{\w+\}", filled(text, WORDS)), text
