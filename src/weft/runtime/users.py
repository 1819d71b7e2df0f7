"""The user that a container, or a command in it, runs as: the tables in the container's own root
map names to numbers.

The rules are Docker's (moby/sys `user`, `GetExecUser`; moby `getUser`). The first matching line
counts. A number is an id, whether or not a line has it; a matching line adds the primary group and
the groups that list its user as a member.

The container may change the tables at any time. `read_accounts` is the only code that reads them. A
line that does not follow passwd(5) or group(5) is skipped, so that no mistake in a line makes a
user root.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from weft.errors import InvalidArgument, cause_of
from weft.system.trees import NotRegularError, read_file_inside

PASSWD, GROUP = "/etc/passwd", "/etc/group"
_MAX_BYTES = 10 << 20
"""Bytes of a table: Docker's limit."""
_MAX_ID = 2**31 - 1
"""Docker's limit; the kernel allows larger ids, but not all programs do."""
_MAX_DIGITS = 20
_NUMBER = re.compile(r"[+-]?[0-9]+")


class User(msgspec.Struct, frozen=True):
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Supplementary groups, including `gid`: a process that could drop its primary group would
    evade permissions that exclude that group (CVE-2022-36109)."""


class Table(msgspec.Struct, frozen=True):
    content: bytes = b""
    problem: str = ""
    """The reason why the table could not be read. A missing table is only empty."""


class Accounts(msgspec.Struct, frozen=True):
    passwd: Table = Table()
    group: Table = Table()


def read_accounts(root: Path) -> Accounts:
    """Reads the tables from the root of a container, which may be running. Call it in a thread,
    since it blocks on the disk.

    Raises `InvalidArgument` for a FIFO: such a container would be unusable, because the OCI runtime
    opens these files after it has entered the container, and would wait for a writer."""
    return Accounts(_read(root, PASSWD), _read(root, GROUP))


def _read(root: Path, path: str) -> Table:
    try:
        return Table(read_file_inside(root, path, _MAX_BYTES))
    except FileNotFoundError:
        return Table()
    except OSError as error:
        if isinstance(error, NotRegularError) and error.is_fifo:
            raise InvalidArgument(
                f"cannot read {path} of the container: {cause_of(error)}"
            ) from error
        return Table(problem=f"cannot read {path}: {cause_of(error)}")


def find_user(accounts: Accounts, user: str, groups: Sequence[str] = ()) -> User:
    """`user` is `name|uid[:name|gid]`, empty for root, as in an image or a service; `groups` are
    supplementary groups, by name or id. Raises `InvalidArgument` with Docker's text for a name that
    the tables do not have."""
    name, _, group = user.partition(":")
    number = _number(name) if name else 0
    login, uid, gid = _find_login(accounts.passwd, name, number)
    if group:
        gid = _find_group(accounts.group, group)
        member_of = []
    else:
        member_of = [id for _, id, members in _groups(accounts.group) if login and login in members]
    extra = [_find_group(accounts.group, wanted) for wanted in groups]
    ids = [_in_range(id) for id in (gid, *member_of, *extra)]
    return User(_in_range(uid), ids[0], tuple(dict.fromkeys(ids)))


def _find_login(passwd: Table, name: str, number: int | None) -> tuple[str, int, int]:
    """(name, or "" if no line has it; uid; gid)."""
    for login, uid, gid in _logins(passwd):
        if (login == name) if number is None else (uid == number):
            return login, uid, gid
    if number is None:
        raise InvalidArgument(
            f"unable to find user {name}: {passwd.problem or 'no matching entries in passwd file'}"
        )
    return "", number, 0


def _find_group(group: Table, wanted: str) -> int:
    number = _number(wanted)
    for name, id, _ in _groups(group):
        if (name == wanted) if number is None else (id == number):
            return id
    if number is None:
        raise InvalidArgument(
            f"unable to find group {wanted}: {group.problem or 'no matching entries in group file'}"
        )
    return number


def _logins(passwd: Table) -> Iterator[tuple[str, int, int]]:
    for name, _, uid, gid, *_ in _lines(passwd):
        if _NUMBER.fullmatch(uid) and _NUMBER.fullmatch(gid):
            yield name, _integer(uid), _integer(gid)


def _groups(group: Table) -> Iterator[tuple[str, int, list[str]]]:
    for name, _, id, members, *_ in _lines(group):
        if _NUMBER.fullmatch(id):
            yield name, _integer(id), members.split(",")


def _lines(table: Table) -> Iterator[list[str]]:
    """The fields of each line, at least four. Only a newline ends a line, while `splitlines` also
    splits at other characters."""
    for line in table.content.split(b"\n"):
        text = line.decode(errors="replace").strip()
        fields = text.split(":")
        if not text.startswith("#") and len(fields) >= 3:
            yield [*fields, *[""] * (4 - len(fields))]


def _number(text: str) -> int | None:
    """None if the text is a name. Raises `InvalidArgument` for a number that is no valid id."""
    return _in_range(_integer(text)) if _NUMBER.fullmatch(text) else None


def _integer(digits: str) -> int:
    """The number of a text that `_NUMBER` matches; a text with very many digits gives a number that
    is too large."""
    return int(digits) if len(digits) <= _MAX_DIGITS else _MAX_ID + 1


def _in_range(id: int) -> int:
    if not 0 <= id <= _MAX_ID:
        raise InvalidArgument(f"uids and gids must be in range 0-{_MAX_ID}")
    return id
