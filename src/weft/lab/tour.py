"""The walkthrough, live: each step in two sentences, where in the picture we are, the command as
somebody at that host would type it, and its real output with the parts that tell.

    tour_steps.py   what is typed where
    tour_texts.py   what it shows, in English and in French
    tour_picture.py where that is
"""

import re
from collections.abc import Callable
from typing import TextIO

from weft.lab.tour_picture import picture
from weft.lab.tour_steps import STEPS, Step
from weft.lab.tour_texts import Language, phrase, text
from weft.lab.typed import typed

_PROGRESS = re.compile(r"overall progress: |verify: Waiting|\d+/\d+: |$")
"""Lines that docker repaints on a terminal, but repeats here."""
TITLE, MARK, PLAIN = "\x1b[1;36m", "\x1b[1;33m", "\x1b[0m"


def run(
    stream: TextIO, spoken: Language, *, colour: bool, wait: Callable[[str], object] | None = None
) -> int:
    """Runs all steps. `wait`: called between two steps, with what is to be asked. Gives 0 if every
    step succeeded."""
    failed = number = 0
    count = sum(bool(step.name) for step in STEPS)
    for step in STEPS:
        if step.name:
            number += 1
            title = phrase("step", spoken).format(number=number, count=count)
            stream.write(f"\n{_coloured(title, TITLE, colour)}\n\n")
            stream.write(
                f"{picture(step.place, step.host, colour)}\n\n{text(step.name, spoken)}\n\n"
            )
            stream.write(f"{_coloured(f'({step.host}) $ {step.command}', TITLE, colour)}\n")
            stream.flush()
        done = typed(step.host, ["sh", "-c", step.command])
        if step.name:
            stream.writelines(shown(done.stdout, step, colour))
        if done.returncode and not step.quiet:
            failed += 1
            stream.write(f"(exit status {done.returncode})\n")
        if wait is not None and step.name:
            wait(phrase("next", spoken))
    stream.write(phrase("try", spoken))
    return int(failed > 0)


def shown(output: str, step: Step, colour: bool) -> list[str]:
    """The lines of a command's output, with the marked parts."""
    lines = [
        line for line in output.splitlines(keepends=True) if not _PROGRESS.match(line)
    ]  # fmt: skip
    if not colour or step.marks is None:
        return lines
    return [step.marks.sub(lambda found: f"{MARK}{found[0]}{PLAIN}", line) for line in lines]


def _coloured(words: str, colour: str, wanted: bool) -> str:
    return f"{colour}{words}{PLAIN}" if wanted else words
