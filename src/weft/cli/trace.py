"""`weft trace`: a packet's way over the hosts of the swarm, and that of its answer, through the API of
a manager."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from weft.api.client import Api
from weft.cli.keys import socket_path
from weft.errors import OperationFailed

WIDTH = 16
"""Columns for the place of a step."""


@click.command("trace")
@click.argument("source", required=False, metavar="[SRC]")
@click.argument("target", required=False, metavar="DST")
@click.option("--port", type=click.IntRange(1, 65535), help="The port that is asked for.")
@click.option("--proto", type=click.Choice(["tcp", "udp"]), default="tcp", show_default=True)
@click.option(
    "--from-outside", metavar="ADDRESS", help="Somebody outside sends the packet; SRC is left out."
)
@click.option(
    "--probe/--no-probe",
    default=True,
    show_default=True,
    help="Send a marked packet along the way.",
)
@click.option("--json", "as_json", is_flag=True, help="The whole answer, for programs.")
def command(
    source: str | None,
    target: str | None,
    port: int | None,
    proto: str,
    from_outside: str | None,
    probe: bool,
    as_json: bool,
) -> int:
    """Show the way of one packet and of its answer, host by host, as the kernels are now.

    SRC and DST are a task, a service, a container, a node or the address of one. DST may also be a
    name as the source would use it, or a published port: NODE:PORT, :PORT. SRC may also be a container
    of docker run: NODE/NAME, /NAME.

    Then a marked packet is sent along this way, and each hop says whether it has passed and after
    how many microseconds. Nothing is changed, and no program notices. The exit status is 0 if the
    packet arrives, its answer comes back, and the marked packet says the same.
    """
    if from_outside is not None and target is None:
        source, target = None, source
    if target is None:
        raise click.UsageError("name a source and a target, or a target and --from-outside")
    body = {
        "Source": source or "", "Target": target, "Port": port or 0, "Protocol": proto,
        "FromOutside": from_outside or "", "Probe": probe,
    }  # fmt: skip
    found = Api(socket_path()).post("/weft/trace", body)
    if not isinstance(found, dict):
        raise OperationFailed("cannot trace: the daemon has sent no answer")
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))
    probed = found.get("Probe")
    return 0 if found["Arrived"] and (probed is None or probed["Agrees"]) else 1


def lines(trace: dict[str, Any]) -> Iterator[str]:
    probe = trace.get("Probe")
    for title, way in (("the packet", "Out"), ("its answer", "Back")):
        legs = trace[way]
        passed = _passed(probe[way] if probe is not None else ())
        if legs:
            yield click.style(title, bold=True)
            host = ""
            for number, leg in enumerate(legs):
                if leg["Node"] != host:
                    host = leg["Node"]
                    yield f"  {click.style(host, fg='cyan')}"
                yield from _leg(leg, number, passed)
    colour = "green" if trace["Arrived"] else "red"
    yield click.style(trace["Verdict"], fg=colour, bold=True)
    for finding in trace["Findings"]:
        yield from _finding(finding)
    if probe is not None:
        yield from _probe(probe)


def _passed(hops: Iterable[dict[str, Any]]) -> dict[tuple[int, int], str]:
    """What the marked packet says of a step, by the step's place."""
    return {(hop["Leg"], hop["Step"]): _told(hop) for hop in hops if hop["Passed"] is not None}


def _told(hop: dict[str, Any]) -> str:
    if hop["Passed"]:
        return click.style(f"passed after {hop['Microseconds']} µs", fg="green")
    return click.style("NOT SEEN", fg="red", bold=True)


def _probe(probe: dict[str, Any]) -> Iterator[str]:
    colour = ("green" if probe["Agrees"] else "red") if probe["Sent"] else None
    yield click.style(probe["Verdict"], fg=colour, bold=not probe["Agrees"])
    for failure in probe["Failures"]:
        yield f"  not watched: {failure}"


def _leg(leg: dict[str, Any], number: int, passed: Mapping[tuple[int, int], str]) -> Iterator[str]:
    if leg["Failure"]:
        yield f"    {click.style(leg['Failure'], fg='red')}"
    if leg.get("Name"):
        found = leg["Addresses"]
        answered = "no answer" if found is None else ", ".join(found) or "no address"
        yield f"    {'resolver':{WIDTH}} {leg['Name']}: {answered}"
    for count, step in enumerate(leg["Steps"]):
        place = step["Place"]
        shown = place if len(place) <= WIDTH else place[: WIDTH - 1] + "…"
        yield f"    {shown:{WIDTH}} {step['Words']:<44} {_packet(step['Packet'])}"
        for fact in step["Facts"]:
            yield click.style(f"    {'':{WIDTH}}   {fact}", dim=True)
        if (number, count) in passed:
            yield f"    {'':{WIDTH}}   {passed[number, count]}"


def _packet(packet: dict[str, Any]) -> str:
    return (
        f"{packet['Protocol']} {packet['Source']}:{packet['SourcePort']}"
        f" > {packet['Destination']}:{packet['DestinationPort']}"
    )


def _finding(finding: dict[str, Any]) -> Iterator[str]:
    place = ", ".join(filter(None, (finding["Node"], finding["Place"], finding["Device"])))
    missing = f": {finding['Missing']}" if finding["Missing"] else ""
    yield f"  {place}: {finding['Words']}{missing}"
    if finding["Repair"]:
        yield f"    repaired by: {finding['Repair']}"
