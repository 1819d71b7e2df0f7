"""`weft check`: what stands in the daemon's way on this host, and what to type about it."""

import os
from pathlib import Path

import click
import msgspec

from weft.cli.configuration import DEFAULT_CONFIG, make_options, read_config
from weft.daemon.fitness import Finding, examine
from weft.daemon.host_facts import gather
from weft.daemon.node import UNFIT
from weft.errors import InvalidArgument

WARNED = 1


@click.command("check")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help=f"Configuration file.  [{DEFAULT_CONFIG}, if it exists]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(config: Path | None, as_json: bool) -> int:
    """Look whether this host can run a daemon, and say what to change.

    Looks at the configuration, programs, the kernel, ports, firewalls, network software, clock and
    disk; changes nothing. Ends with status 0 if there is nothing to do, 1 if something will not
    work, 78 if the daemon cannot start.
    """
    if os.geteuid():
        raise click.ClickException("cannot check this host: that needs root")
    try:
        facts = gather(make_options(read_config(config)))
    except InvalidArgument as error:
        facts = gather(None, str(error))
    findings = examine(facts)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(findings), indent=2).decode())
    else:
        click.echo("\n".join(text(findings)))
    return status(findings)


def status(findings: list[Finding]) -> int:
    severities = {finding.severity for finding in findings}
    return UNFIT if "error" in severities else WARNED if "warning" in severities else 0


def text(findings: list[Finding]) -> list[str]:
    lines = []
    for finding in findings:
        lines.append(f"{finding.severity}: {finding.about}: {finding.text}")
        lines += [f"    {line}" for line in finding.remedy]
    lines.append(
        {0: "This host is fit.", WARNED: "The daemon starts here, but see the warnings."}.get(
            status(findings), "The daemon cannot start here; see the errors."
        )
    )
    return lines
