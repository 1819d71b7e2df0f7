"""`weft keys`: the keys of encrypted networks, through the API of a manager. The keys themselves
never leave the managers."""

import os
from pathlib import Path
from typing import Any

import click

from weft.api.client import Api
from weft.errors import InvalidArgument
from weft.model.numbers import decimal

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DEFAULT_SOCKET = "/var/run/docker.sock"


def socket_path() -> Path:
    """The socket that the docker command would use. Raises `InvalidArgument` for a host that is not
    a UNIX socket."""
    host = os.environ.get("DOCKER_HOST", f"unix://{DEFAULT_SOCKET}")
    if not host.startswith("unix://"):
        raise InvalidArgument(f"cannot use DOCKER_HOST {host!r}: only unix:// is supported")
    return Path(host.removeprefix("unix://"))


def duration(text: str) -> int:
    """A duration like `90s`, `30m`, `12h`, `7d` in nanoseconds. Raises `InvalidArgument`."""
    number = decimal(text[:-1])
    if number is None or text[-1] not in UNITS:
        raise InvalidArgument(f"cannot use {text!r} as a duration: write 90s, 30m, 12h or 7d")
    return number * UNITS[text[-1]] * 10**9


def show(keys: Any) -> None:
    click.echo(f"a new key of {keys['Bits']} bits every {keys['Every'] // 10**9} s")
    for key in keys["Keys"]:
        use = "sends and receives" if key["Sending"] else "receives"
        click.echo(f"key {key['Tag']}: {key['Bits']} bits, made {key['CreatedAt']}, {use}")
    if not keys["Keys"]:
        click.echo("no keys: there is no encrypted network")


@click.group("keys", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Show the keys of encrypted networks: their numbers and ages, never the keys."""
    if context.invoked_subcommand is None:
        show(Api(socket_path()).get("/weft/keys"))


@command.command("rotate")
def rotate_command() -> None:
    """Make a new key now. It is used for sending from the next rotation on."""
    show(Api(socket_path()).post("/weft/keys/rotate"))


@command.command("set")
@click.option("--every", metavar="TIME", help="Life of a key: 90s, 30m, 12h, 7d.")
@click.option(
    "--bits", type=click.Choice(["128", "256"]), help="Length of the keys made from now on."
)
def set_command(every: str | None, bits: str | None) -> None:
    """Change how often keys are rotated and how long they are."""
    body = {"Every": duration(every) if every else 0, "Bits": int(bits or 0)}
    show(Api(socket_path()).post("/weft/keys/update", body))
