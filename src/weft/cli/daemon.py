"""`weft daemon`: the daemon of one host. Reads the options and the configuration file, checks them, and runs `weft.node`.

Options win over the file. The file is TOML, its keys are the names of the options; one that is not known is an error:

    data-root = "/var/lib/weft"
    socket = "/run/docker.sock"
    log-level = "info"
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import click

from weft.errors import InvalidArgument
from weft.node import DaemonOptions, run

DEFAULT_CONFIG = Path("/etc/weft/config.toml")
DEFAULTS = {
    "data-root": "/var/lib/weft",
    "run-dir": "/run/weft",
    "netns-dir": "/run/docker/netns",
    "socket": "/var/run/docker.sock",
    "log-level": "info",
}
LOG_LEVELS = ("debug", "info", "warning", "error")


@click.command("daemon")
@click.option("--data-root", metavar="DIR", help="Where the node keeps its state.  [/var/lib/weft]")
@click.option("--run-dir", metavar="DIR", help="Where it keeps what a reboot may take.  [/run/weft]")
@click.option("--netns-dir", metavar="DIR", help="Where it pins network namespaces.  [/run/docker/netns]")
@click.option("--socket", metavar="PATH", help="Where it serves the API; root only.  [/var/run/docker.sock]")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="[info]")
@click.option("--config", type=click.Path(path_type=Path), help=f"Configuration file.  [{DEFAULT_CONFIG}, if it exists]")
@click.option("--check-config", is_flag=True, help="Check options and file, and end.")
def command(config: Path | None, check_config: bool, **options: str | None) -> int:
    """Run the daemon of this host in the foreground.

    It logs to standard error, one line an event. Containers and their traffic go on when it ends.
    """
    given = {name.replace("_", "-"): value for name, value in options.items() if value is not None}
    daemon = make_options({**read_config(config), **given})
    if check_config:
        click.echo("configuration OK")
        return 0
    if os.geteuid():
        raise click.ClickException("cannot run the daemon: that needs root")
    return run(daemon)


def read_config(path: Path | None) -> dict[str, str]:
    """What the file says; nothing if none is named and the default is not there. Raises `InvalidArgument`."""
    file = path or DEFAULT_CONFIG
    try:
        content = tomllib.loads(file.read_text())
    except FileNotFoundError as error:
        if path is None:
            return {}
        raise InvalidArgument(f"cannot read configuration {file}: no such file") from error
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"cannot read configuration {file}: {error}") from error
    for key, value in content.items():
        if key not in DEFAULTS:
            raise InvalidArgument(f"cannot read configuration {file}: unknown key {key!r}; known are {', '.join(DEFAULTS)}")
        if not isinstance(value, str):
            raise InvalidArgument(f"cannot read configuration {file}: {key} must be a string, not {value!r}")
    return content


def make_options(given: Mapping[str, str]) -> DaemonOptions:
    """Raises `InvalidArgument` for a path that is not absolute or a log level that there is not."""
    values = {**DEFAULTS, **given}
    for key, value in values.items():
        if key != "log-level" and not os.path.isabs(value):
            raise InvalidArgument(f"cannot use {key} {value!r}: it must be an absolute path")
    if values["log-level"] not in LOG_LEVELS:
        raise InvalidArgument(f"cannot use log-level {values['log-level']!r}: it must be one of {', '.join(LOG_LEVELS)}")
    return DaemonOptions(
        data_root=Path(values["data-root"]),
        run_dir=Path(values["run-dir"]),
        netns_dir=Path(values["netns-dir"]),
        socket=Path(values["socket"]),
        log_level=values["log-level"],
    )
