"""`weft lab`: a cluster of hosts in namespaces on this machine."""

import os
import random
import signal
import sys

import click

from weft.lab import breaking, breaks, daemons, enter, faults, lab, tour, tour_texts
from weft.lab.layout import CLIENT, Layout
from weft.lab.processes import load
from weft.lab.progress import Progress
from weft.model.signals import signal_number

LAYOUT = Layout()
_FREE = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.group("lab")
def command() -> None:
    """A cluster of hosts in namespaces on this machine."""
    if os.geteuid():
        raise click.ClickException("cannot use the lab: that needs root")


@command.command("up")
@click.option(
    "--nodes",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many hosts.  [as many as there are, else 3]",
)
@click.option(
    "--managers",
    type=click.IntRange(min=1),
    default=1,
    metavar="M",
    help="How many of them are managers.  [1]",
)
@click.option("--no-image", is_flag=True, help="Do without the demo image.")
def up_command(nodes: int | None, managers: int, no_image: bool) -> None:
    """Bring the lab up, or mend what is missing of it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lab.up(LAYOUT, nodes, Progress(), managers=managers, image=not no_image)
    click.echo(reachable())


@command.command("down")
def down_command() -> None:
    """Take the lab down and leave nothing behind."""
    lab.down(LAYOUT, Progress())


@command.command("status")
def status_command() -> int:
    """Show the hosts; exit status 1 if something of the lab does not run."""
    found = lab.status(LAYOUT)
    if not found:
        click.echo("there is no lab; bring one up with `weft lab up`")
        return 1
    click.echo(
        f"{'HOST':<10}{'ADDRESS':<16}{'PID':<9}{'DAEMON':<10}{'SWARM':<10}{'ROLE':<10}SOCKET"
    )
    for item in found:
        is_client = item.host.name == CLIENT
        init = str(item.init.pid) if item.init else "dead"
        daemon = "-" if is_client else str(item.daemon.pid) if item.daemon else "dead"
        socket = "-" if is_client else str(item.host.socket)
        click.echo(
            f"{item.host.name:<10}{item.host.address!s:<16}{init:<9}{daemon:<10}{item.swarm or '-':<10}{item.role or '-':<10}{socket}"
        )
    return int(
        any(
            item.init is None or (item.daemon is None and item.host.name != CLIENT)
            for item in found
        )
    )


@command.command("exec", context_settings=_FREE, add_help_option=True)
@click.argument("node")
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
def exec_command(node: str, argv: tuple[str, ...]) -> int:
    """Run CMD inside a host's namespaces: network, mounts, hostname, processes.

    NODE is node1, node2, ... or client, the machine outside the cluster. Ends with the status of
    CMD.
    """
    return enter.main([node, *argv])


@command.command("shell")
@click.argument("node")
def shell_command(node: str) -> int:
    """Be at a host: a shell inside its namespaces, with DOCKER_HOST set."""
    return _shell(node)


def _shell(node: str) -> int:
    init = load(LAYOUT.run / f"{node}.init")
    if init is None:
        raise click.ClickException(
            f"cannot open a shell on {node}: no such host in the lab, or it is not running"
        )
    variables = {**enter.environment(node), "PS1": rf"({node}) \w \$ "}
    if node != CLIENT:
        variables["DOCKER_HOST"] = "unix:///var/run/docker.sock"
    return enter.run(init, ["bash", "--norc", "--noprofile"], variables)


@command.command("kill")
@click.argument("node")
@click.option("-s", "--signal", "name", default="KILL", show_default=True, help="Which signal.")
def kill_command(node: str, name: str) -> None:
    """End the daemon of a host, as a crash would; containers and traffic go on."""
    if not daemons.stop(lab.find(LAYOUT, node), signal_number(name)):
        raise click.ClickException(f"cannot end the daemon of {node}: it is not running")


@command.command("restart")
@click.argument("node")
def restart_command(node: str) -> None:
    """Start the daemon of a host, after ending the one that runs."""
    host = lab.find(LAYOUT, node)
    daemons.stop(host)
    daemons.start(LAYOUT, host)


@command.command("reboot")
@click.argument("node")
def reboot_command(node: str) -> None:
    """Kill everything on a host and start it again, with its disk and an empty /run."""
    lab.reboot(LAYOUT, lab.find(LAYOUT, node))


@command.command("halt")
@click.argument("node")
def halt_command(node: str) -> None:
    """Kill everything on a host and leave it off; `weft lab up` starts it."""
    lab.halt(LAYOUT, lab.find(LAYOUT, node))


@command.command("pause")
@click.argument("node")
def pause_command(node: str) -> None:
    """Stop a host's daemon, and its part of the store, in their tracks."""
    faults.pause(LAYOUT, lab.find(LAYOUT, node))


@command.command("resume")
@click.argument("node")
def resume_command(node: str) -> None:
    """Let what was paused go on."""
    faults.resume(LAYOUT, lab.find(LAYOUT, node))


@command.command("cut")
@click.argument("node")
@click.option(
    "--from",
    "others",
    multiple=True,
    metavar="NODE",
    help="Only from this host; may be given again.",
)
def cut_command(node: str, others: tuple[str, ...]) -> None:
    """Lose all packets between a host and the others, without a word to either."""
    faults.cut(
        lab.find(LAYOUT, node),
        [LAYOUT.client if name == CLIENT else lab.find(LAYOUT, name) for name in others],
    )


@command.command("heal")
@click.argument("node")
def heal_command(node: str) -> None:
    """Undo every `cut` of a host."""
    faults.heal(lab.find(LAYOUT, node))


@command.command("break")
@click.argument("name", required=False)
@click.option("--undo", is_flag=True, help="Take the fault back, and say what it was.")
@click.option("--hint", is_flag=True, help="Say where to look.")
def break_command(name: str | None, undo: bool, hint: bool) -> None:
    """Break something in the lab, for you to find with `weft trace` and `weft doctor`.

    Without NAME it lists the faults; with `any` it takes one and does not say which.
    """
    if name is None and not undo and not hint:
        for each in breaks.FAULTS.values():
            click.echo(f"  {each.name:<40}{'mended at once' if not each.undo else 'lasts'}")
        return
    if not lab.status(LAYOUT):
        raise click.ClickException(
            "cannot break anything: there is no lab; bring one up with `weft lab up`"
        )
    if undo:
        was = breaking.undo(LAYOUT)
        where = f"on {breaking.HOSTS[was.host]}, namespace {was.space}"
        click.echo(f"It was {was.name}, made {where}:")
        click.echo("".join(f"  {line}\n" for line in was.commands), nl=False)
        return
    if hint:
        now = breaking.broken(LAYOUT)
        click.echo(now.hint if now is not None else "Nothing is broken by weft lab break.")
        return
    made = breaking.make(LAYOUT, random.choice([*breaks.FAULTS]) if name == "any" else str(name))
    click.echo(
        f"{made.symptom}\n\nFind out what is wrong and where, from node1: weft lab shell node1\n"
        "  weft trace break-app break-web      weft doctor      weft capture break-net\n"
        "weft lab break --hint says where to look; --undo takes it back, and says what it was."
    )


@command.command("tour")
@click.option("--pause", is_flag=True, help="Step by step: wait for Enter after each.")
@click.option(
    "--lang",
    "spoken",
    type=click.Choice(tour_texts.LANGUAGES),
    help="The language of the explanations.  [by the locale]",
)
def tour_command(pause: bool, spoken: tour_texts.Language | None) -> int:
    """The walkthrough, live: each step explained, its command, and its real output.

    At a terminal it ends in a shell on node1.
    """
    if not lab.status(LAYOUT):
        raise click.ClickException(
            "cannot give the tour: there is no lab; bring one up with `weft lab up`"
        )
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    spoken = spoken or tour_texts.language(next(filter(None, names), ""))
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    status = tour.run(sys.stdout, spoken, colour=sys.stdout.isatty(), wait=input if pause else None)
    if status or not at_terminal:
        return status
    click.echo(tour_texts.phrase("shell", spoken))
    return _shell("node1")


def reachable() -> str:
    """How to use the lab, for people."""
    manager = LAYOUT.node(1)
    return (
        f"\nThe lab is up.\n\n  docker -H unix://{manager.socket} node ls\n  weft lab shell node1  "
        "        a shell on a host; docker, ip, tcpdump work as on a real one\n  weft lab exec"
        f" client -- CMD   from {LAYOUT.client.address}, outside the cluster\n  weft lab tour      "
        "           what there is to see\n  weft lab down                 takes it all away\n"
    )
