"""The root of the command tree: which subcommands there are, and how an error becomes a message and
an exit status."""

import importlib
from collections.abc import Sequence

import click

from weft import VERSION
from weft.errors import WeftError

COMMANDS = {
    "capture": "weft.cli.capture",
    "check": "weft.cli.check",
    "daemon": "weft.cli.daemon",
    "doctor": "weft.cli.doctor",
    "flows": "weft.cli.flows",
    "keys": "weft.cli.keys",
    "lab": "weft.cli.lab",
    "top": "weft.cli.top",
    "trace": "weft.cli.trace",
}
"""Each module has its command as `command`."""
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


class LazyGroup(click.Group):
    """Imports a subcommand when it is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[name]).command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="weft")
def root() -> None:
    """Networking for clusters of containers, driven by the docker command.

    Everything Swarm has a command for is done with `docker`; the commands here are what it has none
    for.
    """


def run(arguments: Sequence[str]) -> int:
    try:
        status = root.main(list(arguments), prog_name="weft", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("weft: interrupted", err=True)
        return INTERRUPTED
    except KeyboardInterrupt:
        click.echo("weft: interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except WeftError as error:
        click.echo(f"weft: {error}", err=True)
        return 1
    return status if isinstance(status, int) else 0
