"""`weft doctor`: what is wrong, through the daemon of this host: on a manager with the whole swarm,
on any other node with the node itself."""

import json
from typing import Any

import click

from weft.api.client import Api
from weft.cli.keys import socket_path
from weft.errors import WeftError
from weft.model.finding import Finding

FOUND, BLIND = 1, 2
PATIENCE = 60.0
"""Seconds for the daemon's answer: a node has up to 25 to look at itself."""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option(
    "--repair",
    is_flag=True,
    help="First compare all of the network with what it should be, and mend it.",
)
def command(as_json: bool, repair: bool) -> int:
    """Look for what is wrong with the network, the nodes and the services, and say what to do.

    On a manager it looks at the whole swarm, elsewhere at this node. One line for each finding, the
    worst first. Ends with status 0 if there is none, 1 if there are some, 2 if it could not look.
    """
    try:
        api = Api(socket_path(), PATIENCE)
        report = api.post("/weft/doctor/repair") if repair else api.get("/weft/doctor")
    except WeftError as error:
        click.echo(f"weft: {error}", err=True)
        return BLIND
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo("\n".join(lines(report, repair)))
    return FOUND if report["Findings"] else 0


def lines(report: Any, repair: bool) -> list[str]:
    found = [
        f"mended {each['Node']} {each['What']}".replace("  ", " ") for each in report["Mended"]
    ]
    if repair and not found:
        found.append("nothing had to be mended")
    for each in report["Findings"]:
        found.append(
            str(
                Finding(
                    severity=each["Severity"],
                    node=each["Node"],
                    what=each["What"],
                    cause=each["Cause"],
                    remedy=each["Remedy"],
                )
            )
        )
    return found if report["Findings"] else [*found, "nothing is wrong"]
