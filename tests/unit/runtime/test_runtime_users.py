"""Users by the tables of a container's root, as Docker finds them; and tables that a container
makes to harm."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import InvalidArgument
from weft.runtime.users import Accounts, Table, User, find_user, read_accounts

PASSWD = b"""\
# app:x:7:7
root:x:0:0:root:/root:/bin/sh
web:x:33:34::/:/bin/sh\r
 spaced:x:50:51::/:
web:x:99:99:the second of that name:/:
5000:x:44:44:a name of digits:/:
broken
nobody-knows:x:abc:7::/:
no-group:x:45::/:
far:x:4294967296:7::/:
separated:x:46:46:a\x0bfake:x:0:0::/:
"""
GROUP = b"""\
root:x:0:
www:x:34:
log:x:40:web,other
adm:x:41:root,web
far:x:2147483648:far-member
empty:x:42
"""
TABLES = Accounts(Table(PASSWD), Table(GROUP))


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        ("", (), User(0, 0, (0, 41))),
        ("root", (), User(0, 0, (0, 41))),
        ("0", (), User(0, 0, (0, 41))),
        (":", (), User(0, 0, (0, 41))),
        (":www", (), User(0, 34, (34,))),
        ("web", (), User(33, 34, (34, 40, 41))),
        ("web:", (), User(33, 34, (34, 40, 41))),
        ("33", (), User(33, 34, (34, 40, 41))),
        ("+033", (), User(33, 34, (34, 40, 41))),
        ("web:log", (), User(33, 40, (40,))),
        ("web:7", ("www",), User(33, 7, (7, 34))),
        ("web", ("9", "log", "empty"), User(33, 34, (34, 40, 41, 9, 42))),
        ("spaced", (), User(50, 51, (51,))),
        ("1234", (), User(1234, 0, (0,))),
        ("1234:5678", (), User(1234, 5678, (5678,))),
        ("0:0", ("9",), User(0, 0, (0, 9))),
        ("5000", (), User(5000, 0, (0,))),
        ("44", (), User(44, 44, (44,))),
        ("7", (), User(7, 0, (0,))),
        ("2147483647", (), User(2**31 - 1, 0, (0,))),
    ],
)
def test_users_and_groups_are_those_of_the_container(
    user: str, groups: tuple[str, ...], expected: User
) -> None:
    assert find_user(TABLES, user, groups) == expected


@pytest.mark.parametrize(
    ("user", "groups", "words"),
    [
        ("who", (), "unable to find user who: no matching entries in passwd file"),
        ("broken", (), "unable to find user broken: no matching entries in passwd file"),
        (
            "nobody-knows",
            (),
            "unable to find user nobody-knows: no matching entries in passwd file",
        ),
        ("no-group", (), "unable to find user no-group: no matching entries in passwd file"),
        ("fake", (), "unable to find user fake: no matching entries in passwd file"),
        ("# app", (), "unable to find user # app: no matching entries in passwd file"),
        ("٣", (), "unable to find user ٣: no matching entries in passwd file"),
        ("web:what", (), "unable to find group what: no matching entries in group file"),
        ("web", ("what",), "unable to find group what: no matching entries in group file"),
        ("-1", (), "uids and gids must be in range 0-2147483647"),
        ("2147483648", (), "uids and gids must be in range 0-2147483647"),
        ("9" * 5000, (), "uids and gids must be in range 0-2147483647"),
        ("web:4294967295", (), "uids and gids must be in range 0-2147483647"),
        ("web", ("-5",), "uids and gids must be in range 0-2147483647"),
        ("far", (), "uids and gids must be in range 0-2147483647"),
        ("web:far", (), "uids and gids must be in range 0-2147483647"),
    ],
)
def test_others_are_refused_in_the_originals_words(
    user: str, groups: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        find_user(TABLES, user, groups)
    assert str(caught.value) == words


@given(st.binary(), st.binary(), st.text(max_size=8))
def test_no_table_is_trusted(passwd: bytes, group: bytes, user: str) -> None:
    try:
        found = find_user(Accounts(Table(passwd), Table(group)), user)
    except InvalidArgument:
        return
    assert all(0 <= id < 2**31 for id in (found.uid, *found.groups))
    assert found.gid in found.groups


@given(st.binary().filter(lambda line: b"0" not in line))
def test_a_line_makes_its_user_root_only_by_the_number_0(line: bytes) -> None:
    try:
        found = find_user(Accounts(Table(b"app:x:" + line)), "app")
    except InvalidArgument:
        return
    assert found.uid != 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_bytes(PASSWD)
    (tmp_path / "etc" / "group").write_bytes(GROUP)
    return tmp_path


def test_the_tables_are_read_from_the_containers_root(root: Path) -> None:
    assert read_accounts(root) == TABLES
    (root / "etc" / "group").unlink()
    assert read_accounts(root) == Accounts(Table(PASSWD), Table())


def test_a_table_that_leads_out_of_the_root_is_not_read(root: Path) -> None:
    (root / "etc" / "passwd").unlink()
    (root / "etc" / "passwd").symlink_to("/etc/shadow")
    assert read_accounts(root).passwd == Table()


def test_a_table_that_cannot_be_read_is_named_by_whoever_needs_it(root: Path) -> None:
    (root / "etc" / "group").unlink()
    (root / "etc" / "group").mkdir()
    accounts = read_accounts(root)
    assert find_user(accounts, "web:7") == User(33, 7, (7,))
    with pytest.raises(InvalidArgument) as caught:
        find_user(accounts, "web:www")
    words = (
        "unable to find group www: cannot read /etc/group: it is a directory, not a regular file"
    )
    assert str(caught.value) == words


def test_a_table_without_end_is_not_read(root: Path) -> None:
    os.truncate(root / "etc" / "passwd", 1 << 40)
    accounts = read_accounts(root)
    assert find_user(accounts, "") == User(0, 0, (0,))
    with pytest.raises(
        InvalidArgument, match="unable to find user web: cannot read /etc/passwd: it is larger than"
    ):
        find_user(accounts, "web")


def test_a_container_whose_tables_are_fifos_is_refused(root: Path) -> None:
    """The OCI runtime would wait there for ever."""
    (root / "etc" / "passwd").unlink()
    os.mkfifo(root / "etc" / "passwd")
    with pytest.raises(
        InvalidArgument,
        match="cannot read /etc/passwd of the container: it is a FIFO, not a regular file",
    ):
        read_accounts(root)
