"""docs/compatibility.md against what is so: its routes, the fields of requests, the versions of the
API."""

from tests.support.compatibility_page import END, PATH, tables, wires, with_tables
from weft.api import versions

PAGE = PATH.read_text()


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    assert with_tables(PAGE) == PAGE, "run scripts/compatibility"
    for name, table in tables().items():
        assert f"<!-- {name}: made by scripts/compatibility -->\n{table}{END}" in PAGE
        assert table.count("\n| ") > 10


def test_the_page_names_every_field_that_is_refused() -> None:
    lacking = {field for wire in wires() for field in wire.lacks}
    assert {"TaskDefaults", "PluginSpec"} < lacking
    for field in lacking:
        assert f"`{field}`" in tables()["fields"]


def test_the_page_says_which_versions_are_spoken() -> None:
    assert PAGE.count(f"{versions.MIN_VERSION} to {versions.MAX_VERSION}") == 2
