"""The command blocks of the pages for users: README.md and docs/*.md. Tests take commands from the
pages by what a block begins with, so a page and what is run cannot differ.

A block is what Markdown shows as code: indented by four spaces, or between fences. A block that
begins with a prompt (`# `, `node1# `) is a session: its commands are the lines with a prompt. In any
other block they are the lines of the first paragraph, but for comments and indented lines. Two or
more spaces end a command: what follows explains it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
_PROMPT = re.compile(r"(\w+)?# (.*)")
_INLINE = re.compile(r"(?<!`)`((?:weft|docker) [^`]+)`(?!`)")


class Block(NamedTuple):
    page: str
    lines: tuple[str, ...]

    @property
    def is_session(self) -> bool:
        return _PROMPT.fullmatch(self.lines[0]) is not None

    @property
    def commands(self) -> list[str]:
        if self.is_session:
            prompted = (_PROMPT.fullmatch(line) for line in self.lines)
            return [_without_explanation(found[2]) for found in prompted if found]
        paragraph = "\n".join(self.lines).partition("\n\n")[0]
        lines = re.sub(r" *\\\n *", " ", paragraph).splitlines()
        return [_without_explanation(line) for line in lines if not line.startswith(("#", " "))]

    @property
    def settings(self) -> str:
        """Lines of a configuration file, without explanations."""
        found = (re.fullmatch(r"([\w-]+) *= *(.+?)(?: {2,}.*)?", line) for line in self.lines)
        return "".join(f"{line[1]} = {line[2]}\n" for line in found if line)


class Page:
    def __init__(self, name: str) -> None:
        self.name = name
        self._text = (ROOT / name).read_text()

    def blocks(self) -> list[Block]:
        return [Block(self.name, lines) for lines in _blocks(self._text.splitlines())]

    def block(self, begins: str) -> Block:
        """The one block whose first line is this, or else begins like this."""
        blocks = self.blocks()
        found = [block for block in blocks if block.lines[0] == begins] or [
            block for block in blocks if block.lines[0].startswith(begins)
        ]
        (one,) = found
        return one

    def commands(self, begins: str) -> list[str]:
        return self.block(begins).commands

    def inline(self) -> list[str]:
        """Commands of Weft and Docker in the running text."""
        prose = re.sub(r"(?m)^ {4}.*$", "", self._text).replace("\n", " ")
        return _INLINE.findall(prose)


def _without_explanation(line: str) -> str:
    return re.split(r" {2,}", line.strip())[0]


def _blocks(lines: list[str]) -> Iterator[tuple[str, ...]]:
    """Of a page's lines; without blank lines at their ends."""
    block: list[str] = []
    is_fenced, before = False, ""
    for line in [*lines, "."]:
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced:
            block.append(line)
        elif line.startswith("    ") and (block or not before.strip()):
            block.append(line[4:])
        elif block and not line.strip():
            block.append("")
        elif block:
            yield tuple("\n".join(block).rstrip().split("\n"))
            block = []
        before = line
