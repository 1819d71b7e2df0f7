"""Every command in the pages for users is run by a test or named with the reason; and what the pages have
Weft do is what Weft can do."""

import re
import shlex
from pathlib import Path

import click
import pytest

from tests.support.documented_commands import TABLE, NotRun, Run, Settings, fate, key
from tests.support.documents import PAGES, ROOT, Block, Page
from weft.cli.configuration import read_config
from weft.cli.root import root

BLOCKS = [block for page in PAGES for block in Page(page).blocks()]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_named(page: str) -> None:
    for block in Page(page).blocks():
        assert key(block) in TABLE


def test_the_tests_that_run_a_block_take_it_from_the_page() -> None:
    for (page, begins), found in TABLE.items():
        if isinstance(found, Run) and page in PAGES and not found.test.endswith("conftest.py"):
            source = (ROOT / found.test).read_text()
            assert page in source, f"{found.test} does not read {page}"
            words = re.findall(r'(?:commands|block)\(\s*["\'](.+?)["\']', source)
            assert any(begins.startswith(w) or w.startswith(begins) for w in words), (
                f"{found.test} does not run {begins!r} of {page}"
            )


def weft_lines() -> list[str]:
    blocks = (block for block in BLOCKS if isinstance(fate(block), Run | NotRun))
    lines = [line for block in blocks for line in block.commands]
    lines += [line for page in PAGES for line in Page(page).inline()]
    return sorted({line for line in lines if re.match(r"weft( |$)", line)})


def test_there_are_lines_of_weft() -> None:
    assert len(weft_lines()) > 20


@pytest.mark.parametrize("line", weft_lines())
def test_weft_understands_its_lines(line: str) -> None:
    """Brackets are around what may be left out."""
    understand(shlex.split(re.sub(r"[\[\]]", "", line.partition(" \\|")[0]))[1:])


def understand(words: list[str]) -> None:
    command: click.Command = root
    context = click.Context(root, info_name="weft")
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        assert found is not None, f"weft has no {words[0]}"
        command, words = found, words[1:]
    context = click.Context(command, **command.context_settings)
    _, rest, _ = command.make_parser(context).parse_args(list(words))
    assert not rest, f"too many words: {rest}"


def test_words_that_weft_does_not_know_are_noticed() -> None:
    for words in (["lab", "upp"], ["lab", "up", "--hosts", "3"], ["check", "now"]):
        with pytest.raises((AssertionError, click.UsageError)):
            understand(words)


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if isinstance(fate(block), Settings)],
    ids=lambda block: block.page,
)
def test_weft_understands_settings(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(block.settings)
    assert len(read_config(path)) == len([line for line in block.lines if "=" in line])
