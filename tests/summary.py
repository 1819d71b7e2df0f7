"""What came of several runs of pytest: `python tests/summary.py DIRECTORY`, with a JUnit file of each. In `NAME.again.xml` is what had
failed in `NAME.xml` and was run once more."""

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
    files = sorted(directory.glob("*.xml"))
    counted = {"passed": 0, "failed": 0, "skipped": 0}
    for first in [file for file in files if not file.stem.endswith(".again")]:
        again = first.with_suffix(".again.xml")
        for outcome in {**outcomes(first), **(outcomes(again) if again in files else {})}.values():
            counted[outcome] += 1
    print(f"{counted['skipped']} skipped\n{counted['passed']} passed, {counted['failed']} failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
