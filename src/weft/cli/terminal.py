"""A terminal as a screen: lines are drawn over the last ones, keys are read one by one, and at the
end, however it comes, the terminal is as it was.

Plain escape sequences that every terminal of today knows (ECMA-48, and xterm's second screen) do for
that; curses would need a description of the terminal."""

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
"""Second screen, no cursor, no wrapping."""
_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Screen:
    def __init__(self, keyboard: int) -> None:
        self._keyboard = keyboard
        self.is_over = False
        """Nobody is there to press a key."""

    @property
    def size(self) -> os.terminal_size:
        """As it is now."""
        return shutil.get_terminal_size()

    def draw(self, lines: Sequence[str]) -> None:
        """No more lines than the terminal has."""
        body = "\r\n".join(f"{line}{_CLEAR_LINE}" for line in lines)
        sys.stdout.write(f"{_HOME}{body}{_CLEAR_REST}")
        sys.stdout.flush()

    def keys(self, seconds: float) -> str:
        """What is pressed in that time; empty if nothing is."""
        ready, _, _ = select.select([self._keyboard], [], [], seconds)
        if not ready:
            return ""
        pressed = os.read(self._keyboard, 64)
        self.is_over = self.is_over or not pressed
        return pressed.decode(errors="ignore")


def is_there() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def screen() -> Iterator[Screen]:
    """Ends with `KeyboardInterrupt` for Ctrl-C and for the signals that end programs."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    handlers = {number: signal.signal(number, _end) for number in ENDING}
    try:
        tty.setcbreak(keyboard)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()
        yield Screen(keyboard)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
