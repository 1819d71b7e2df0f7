"""What came of several runs of pytest: `python tests/summary.py DIRECTORY`, with a JUnit file of
each."""

import sys
from pathlib import Path
from xml.etree import ElementTree

RED = {"failure", "error"}


def outcomes(file: Path) -> dict[tuple[str | None, str | None], str]:
    """Of each test, which has two entries if it fails and its end does too."""
    found = dict[tuple[str | None, str | None], str]()
    for case in ElementTree.parse(file).iter("testcase"):
        marks = {mark.tag for mark in case}
        outcome = "failed" if marks & RED else "skipped" if "skipped" in marks else "passed"
        test = (case.get("classname"), case.get("name"))
        found[test] = "failed" if found.get(test) == "failed" else outcome
    return found


def main(directory: Path) -> None:
    counted = {"passed": 0, "failed": 0, "skipped": 0}
    for file in sorted(directory.glob("*.xml")):
        for outcome in outcomes(file).values():
            counted[outcome] += 1
    print(f"{counted['skipped']} skipped\n{counted['passed']} passed, {counted['failed']} failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
