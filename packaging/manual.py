"""Prints weft(8), the manual page, in the language of man(7): `python packaging/manual.py VERSION SECONDS`.

The commands and their options are those of the program itself, so the page cannot fall behind.
"""

import sys
import time
from collections.abc import Iterator

import click

from weft.cli.root import root

FOREWORD = """Weft makes one cluster of several hosts, as Docker Swarm does. Everything that Docker Swarm has a command for is done
with the docker command, which finds the daemon at /run/docker.sock; the commands here are those that it lacks."""
FILES = (
    ("/etc/weft/config.toml", "The daemon's configuration. Each setting is explained there."),
    ("/var/lib/weft", "State of the swarm, images, containers, volumes."),
    ("/run/weft", "What a reboot may take: monitors' sockets, the log of etcd."),
    ("/run/docker.sock", "The API, for root only. The service manager holds it (weft.socket)."),
)
STATUSES = (
    ("0", "Done."),
    ("1", "It failed; the message on standard error says why."),
    ("2", "The command line is wrong."),
    (
        "78",
        "\\fBweft daemon\\fR: the host, or the configuration, must be changed before a daemon can run here.",
    ),
)


def page(version: str, seconds: int) -> str:
    day = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    lines = [
        f'.TH WEFT 8 "{day}" "weft-swarm {version}" "System administration"',
        ".SH NAME",
        r"weft \- cluster of Linux hosts, driven by the docker command",
        ".SH SYNOPSIS",
        r"\fBweft\fR \fICOMMAND\fR [\fIARGUMENT\fR...]",
        ".SH DESCRIPTION",
        escape(FOREWORD),
        ".SH COMMANDS",
    ]
    context = click.Context(root, info_name="weft")
    for words, command, here in commands(root, context):
        lines += [f".SS {escape(' '.join(words))}", *described(command, here)]
    lines += [".SH FILES", *table(FILES), ".SH EXIT STATUS"]
    lines += [line for status, text in STATUSES for line in (".TP", status, text)]
    lines += [
        ".SH SEE ALSO",
        "docker(1), systemctl(1), journalctl(1), and /usr/share/doc/weft\\-swarm/",
    ]
    return "\n".join(lines) + "\n"


def commands(
    group: click.Group, context: click.Context, words: tuple[str, ...] = ("weft",)
) -> Iterator[tuple[tuple[str, ...], click.Command, click.Context]]:
    """Each command that does something, with its words."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        here = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from commands(command, here, (*words, name))
        elif not command.hidden:
            yield (*words, name), command, here


def described(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"{escape(context.command_path)} {escape(usage)}"
    for paragraph in (command.help or "").split("\n\n"):
        yield ".PP"
        yield escape(" ".join(paragraph.split()))
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield from table([record])


def table(rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[str]:
    return [line for term, text in rows for line in (".TP", rf"\fB{escape(term)}\fR", escape(text))]


def escape(text: str) -> str:
    """A line that begins with a dot or a quote would be a request."""
    plain = text.replace("\\", r"\e").replace("-", r"\-")
    return "\n".join(
        rf"\&{line}" if line[:1] in (".", "'") else line for line in plain.splitlines()
    )


if __name__ == "__main__":
    print(page(sys.argv[1], int(sys.argv[2])), end="")
