"""The stock docker command knows what the pages for users have people type, and reads their stack files.
No daemon is asked."""

import functools
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.documented_commands import NotRun, Run, Stack, fate
from tests.support.documents import PAGES, Block, Page

BLOCKS = [block for page in PAGES for block in Page(page).blocks()]
PLUGINS = "buildx|compose"
"""They come with packages of their own."""
_OPTION = re.compile(r"(?m)^ +(?:(-\w), )?( *--[\w-]+)(?: (\S+))?(?:  |$)")


@functools.cache
def usage(*words: str) -> str:
    """The help of a command; that of its parent where there is no such command."""
    done = subprocess.run(["docker", *words, "--help"], capture_output=True, text=True, check=True)
    return done.stdout


def options(*words: str) -> dict[str, bool]:
    """Each option of a command, and whether it has a value."""
    found: dict[str, bool] = {}
    for short, long, value in _OPTION.findall(usage(*words)):
        found |= {name: bool(value) for name in (short, long.strip()) if name}
    return found


def docker_lines() -> list[str]:
    blocks = (block for block in BLOCKS if isinstance(fate(block), Run | NotRun))
    parts = [part for block in blocks for line in block.commands for part in line.split(" && ")]
    parts += [line for page in PAGES for line in Page(page).inline()]
    found = {part for part in parts if re.match(r"(\w+=\S+ )*docker ", part)}
    return sorted(line for line in found if not re.match(f"docker ({PLUGINS}) ", line))


@pytest.mark.parametrize("line", docker_lines())
def test_docker_understands_its_lines(line: str) -> None:
    words = shlex.split(line)
    understand(words[words.index("docker") + 1 :])


def understand(words: list[str]) -> None:
    """Fails for an option that the command, or a command above it, does not have."""
    path: list[str] = []
    known, is_program = options(), False
    while words:
        word, *words = words
        name, sign, _ = word.partition("=")
        if word.startswith("-") and word != "-":
            assert name in known, f"docker {' '.join(path)} has no option {name}"
            words = words[1:] if known[name] and not sign else words
        elif not is_program and re.search(rf"(?m)^  {word}\*? ", usage(*path)):
            path.append(word)
            known = options(*path)
        elif path[-1:] in (["run"], ["exec"]):
            return  # the rest is the container's
        else:
            is_program = True


def test_words_that_docker_does_not_know_are_noticed() -> None:
    for line in ("service create --replica 3 x", "swarm init --advertise x", "node ls --wide"):
        with pytest.raises(AssertionError, match="has no option"):
            understand(line.split())


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if isinstance(fate(b), Stack)], ids=lambda block: block.page
)
def test_docker_reads_the_stack_files(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "stack.yml"
    path.write_text("\n".join(block.lines))
    subprocess.run(["docker", "stack", "config", "-c", path], check=True, capture_output=True)
