"""Prints one line for each step of a long operation: the step's name, and at its end the time that
it took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Progress:
    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Reports a step. On a terminal the unfinished line is shown while the step runs."""
        terminal = self._stream.isatty()
        begin = time.monotonic()
        if terminal:
            self._write(f"  {text} …")
        try:
            yield
        except BaseException:
            if terminal:
                self._write("\n")
            raise
        end = f"{time.monotonic() - begin:.1f} s\n"
        self._write(f"\r  {text:<46} {end}" if terminal else f"  {text:<46} {end}")

    def say(self, text: str) -> None:
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        if not self._quiet:
            self._stream.write(text)
            self._stream.flush()
