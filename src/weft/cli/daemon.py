"""`weft daemon`: the daemon of one host. Reads the options and the configuration file, checks them,
and runs `weft.daemon.node`."""

import os
from pathlib import Path

import click

from weft.api.turning_away import turn_away
from weft.cli.configuration import (
    DEFAULT_CONFIG,
    LOG_FORMATS,
    LOG_LEVELS,
    make_options,
    read_config,
)
from weft.daemon.node import UNFIT, run
from weft.errors import InvalidArgument
from weft.system.service_manager import ServiceManager


@click.command("daemon")
@click.option("--data-root", metavar="DIR", help="Where the node keeps its state.  [/var/lib/weft]")
@click.option(
    "--run-dir", metavar="DIR", help="Where it keeps what a reboot may take.  [/run/weft]"
)
@click.option(
    "--netns-dir", metavar="DIR", help="Where it pins network namespaces.  [/run/docker/netns]"
)
@click.option(
    "--socket", metavar="PATH", help="Where it serves the API; root only.  [/var/run/docker.sock]"
)
@click.option(
    "-H",
    "--host",
    "hosts",
    multiple=True,
    metavar="URL",
    help="Serve it here too: unix://PATH, tcp://ADDRESS:PORT.",
)
@click.option(
    "--tlsverify",
    is_flag=True,
    default=None,
    help="TLS, and clients must show a certificate; needed for tcp://.",
)
@click.option("--tlscacert", metavar="FILE", help="The CA that signs clients' certificates.")
@click.option("--tlscert", metavar="FILE", help="The daemon's certificate.")
@click.option("--tlskey", metavar="FILE", help="Its key.")
@click.option(
    "--metrics-address",
    metavar="HOST:PORT",
    help="Serve metrics for Prometheus here too; needs the three files.",
)
@click.option("--metrics-cacert", metavar="FILE", help="The CA that signs Prometheus' certificate.")
@click.option("--metrics-cert", metavar="FILE", help="The certificate to show to Prometheus.")
@click.option("--metrics-key", metavar="FILE", help="Its key.")
@click.option(
    "--store",
    metavar="URL",
    help="Keep the swarm's state in an etcd that you run: etcd://HOST:PORT,HOST:PORT.",
)
@click.option(
    "--etcd-election-timeout",
    metavar="TIME",
    help="Of this host's etcd: longer on slow hosts and between distant ones.  [1s]",
)
@click.option("--store-prefix", metavar="PREFIX", help="Of its keys there.  [/weft/]")
@click.option(
    "--store-cacert", metavar="FILE", help="The CA that signed the certificates of etcd's members."
)
@click.option("--store-cert", metavar="FILE", help="The certificate to show to etcd.")
@click.option("--store-key", metavar="FILE", help="Its key.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="A label of this engine, for constraints.",
)
@click.option(
    "--node-generic-resource",
    "node_generic_resources",
    multiple=True,
    metavar="KIND=VALUE",
    help="What this node has, for services to reserve: an amount, or one name for each piece.",
)
@click.option(
    "--insecure-registry",
    "insecure_registries",
    multiple=True,
    metavar="HOST",
    help="HOST[:PORT] or subnet: its certificate is not checked, and plain HTTP will do.",
)
@click.option(
    "--registry-mirror",
    "registry_mirrors",
    multiple=True,
    metavar="URL",
    help="Ask it for images of Docker Hub first.",
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="[info]")
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    help="text goes to the journal with fields, under systemd.  [text]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help=f"Configuration file.  [{DEFAULT_CONFIG}, if it exists]",
)
@click.option(
    "--check-config",
    is_flag=True,
    help="Check options, file and certificates, and end. `weft check` looks at the host, too.",
)
def command(config: Path | None, check_config: bool, **options: object) -> int:
    """Run the daemon of this host in the foreground.

    It logs to standard error, one line an event. Containers and their traffic go on when it ends.
    Ends with status 78 if the host or the configuration must be changed first.
    """
    given = {
        name.replace("_", "-"): value for name, value in options.items() if value not in (None, ())
    }
    manager = ServiceManager()
    try:
        daemon = make_options({**read_config(config), **given})
    except InvalidArgument as error:
        if check_config:
            raise
        click.echo(f"weft: {error}", err=True)
        turn_away(manager.listeners(), str(error))
        return UNFIT
    if check_config:
        click.echo("configuration OK; weft check looks at the host")
        return 0
    if os.geteuid():
        raise click.ClickException("cannot run the daemon: that needs root")
    return run(daemon, manager)
