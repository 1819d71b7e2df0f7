"""What becomes of each block of the pages for users (`documents.py`): a test that runs it, or why none
does. The key is the page and the beginning of the block's first line.
"""

from typing import NamedTuple

from tests.support.documents import Block


class Run(NamedTuple):
    """The test file takes the block from the page and runs its commands, with addresses and file
    names of its own where the page has examples."""

    test: str


class NotRun(NamedTuple):
    """Only the words of commands are checked."""

    reason: str


class Settings(NamedTuple):
    """Lines of `/etc/weft/config.toml`, which are read as such."""


class Stack(NamedTuple):
    """A stack file, which the docker command reads."""


class Shown(NamedTuple):
    """Nothing to type."""

    what: str


Fate = Run | NotRun | Settings | Stack | Shown

LAB = Run("tests/package/test_documented_lab.py")
HOST = Run("tests/package/test_documented_host.py")
FIREWALLS = Run("tests/package/test_firewalls.py")
REAL = "docs/running-on-real-hosts.md"
LOOKING = "docs/looking-at-the-network.md"
BUILDS = NotRun("they need the buildx plugin and BuildKit's image from Docker Hub")
IPV6 = NotRun("tests/kernel and tests/cluster try such networks with other names")
LEARNING = NotRun("tests of the tour and of the faults run the same commands")
OTHER_HOSTS = "the same command with other hosts is run by tests/package/test_two_hosts.py"

TABLE: dict[tuple[str, str], Fate] = {
    ("README.md", "scripts/demo"): NotRun("they are what CI runs, and a developer's machine"),
    ("README.md", "# weft lab up"): LAB,
    ("README.md", "# docker network create --driver overlay --opt encrypted"): LAB,
    ("README.md", "# docker node promote"): LAB,
    ("README.md", "                    client 10.59.72.100"): Shown("the path of a packet"),
    ("README.md", "apt install ./weft-swarm"): HOST,
    ("docs/building-images.md", "docker buildx create --name weft"): BUILDS,
    ("docs/building-images.md", "docker buildx build"): BUILDS,
    ("docs/building-images.md", "docker load -i buildkit.tar"): BUILDS,
    ("docs/capture.md", "# weft capture demo"): LAB,
    ("docs/doctor.md", "weft doctor"): LAB,
    ("docs/doctor.md", "severity node what"): Shown("findings"),
    ("docs/encryption.md", "docker network create"): LAB,
    ("docs/encryption.md", "IP 20"): Shown("a packet"),
    ("docs/encryption.md", "ICV  64"): Shown("sizes"),
    ("docs/encryption.md", "Security Options"): Shown("docker info"),
    ("docs/encryption.md", "weft keys"): LAB,
    ("docs/encryption.md", "tcpdump -n -i IFACE esp"): LAB,
    ("docs/flows.md", "weft flows"): LAB,
    ("docs/flows.md", "# weft flows"): LAB,
    ("docs/flows.md", "# weft flows --follow"): LAB,
    ("docs/install.md", "scripts/package"): Run("tests/package/conftest.py"),
    ("docs/install.md", "apt install ./weft-swarm_0.1"): HOST,
    ("docs/install.md", "Swarm initialized"): Shown("docker swarm init"),
    ("docs/install.md", "weft check  "): HOST,
    ("docs/install.md", "weft check"): HOST,
    ("docs/install.md", "docker service create"): HOST,
    ("docs/install.md", "docker swarm join-token manager"): HOST,
    ("docs/install.md", "docker node ls"): HOST,
    ("docs/install.md", "nft insert rule"): FIREWALLS,
    ("docs/install.md", "ufw allow"): FIREWALLS,
    ("docs/install.md", "firewall-cmd"): FIREWALLS,
    ("docs/install.md", "docker save"): HOST,
    ("docs/install.md", "skopeo copy"): NotRun("it needs Docker Hub"),
    ("docs/install.md", "apt install ./weft-swarm_0.2"): HOST,
    ("docs/install.md", "systemctl stop"): HOST,
    ("docs/install.md", "docker swarm leave --force"): HOST,
    ("docs/install.md", "apt purge"): HOST,
    ("docs/labels.md", "services:"): Stack(),
    ("docs/ipv6.md", "docker network create --ipv6"): IPV6,
    ("docs/learning-in-the-lab.md", "weft lab tour"): LEARNING,
    ("docs/learning-in-the-lab.md", "weft lab break"): LEARNING,
    ("docs/learning-in-the-lab.md", "# weft lab break"): LEARNING,
    ("docs/logs.md", "journalctl CONTAINER_NAME"): HOST,
    (LOOKING, "weft trace SRC DST"): LAB,
    ("docs/top.md", "weft top ["): LAB,
    ("docs/top.md", "weft top: "): Shown("a screen"),
    (LOOKING, "# weft trace app web --port"): LAB,
    (LOOKING, "# weft trace app web"): LAB,
    (LOOKING, "network mynet"): Shown("a hop of a trace"),
    ("docs/metrics.md", "curl --unix-socket"): HOST,
    ("docs/metrics.md", "metrics-address"): Settings(),
    ("docs/metrics.md", "scrape_configs"): Shown("Prometheus' own configuration"),
    ("docs/private-registries.md", "docker login"): NotRun("it needs a registry with that name"),
    ("docs/private-registries.md", "/etc/docker"): Shown("files"),
    ("docs/private-registries.md", "insecure-registries"): Settings(),
    (REAL, "node1# docker network create"): LAB,
    (REAL, "apt install ./weft-swarm"): HOST,
    (REAL, "docker swarm init --advertise-addr"): NotRun(OTHER_HOSTS),
    (REAL, "docker node promote"): LAB,
    (REAL, "docker swarm init --force-new-cluster"): LAB,
    (REAL, "systemctl stop"): HOST,
    (REAL, "rm -r /var/lib/weft/swarm"): HOST,
    (REAL, "store        ="): Settings(),
    (REAL, "--max-txn-ops"): Shown("options of etcd"),
    (REAL, "openssl req"): HOST,
    (REAL, "DOCKER_CERT_PATH"): HOST,
    (REAL, "data-root ="): Settings(),
    (REAL, "docker service ps"): HOST,
    ("docs/scale.md", "agents   "): Shown("figures"),
    ("docs/scale.md", "containers of the network"): Shown("figures"),
    ("docs/security.md", "    table inet managers-only"): Shown("a table for nftables"),
}


def key(block: Block) -> tuple[str, str]:
    """The longest that fits. Raises `LookupError` for a block that nobody has thought of."""
    fitting = [
        (page, begins)
        for page, begins in TABLE
        if page == block.page and block.lines[0].startswith(begins)
    ]
    if not fitting:
        raise LookupError(
            f"{block.page}: nothing in {__name__} says what becomes of {block.lines[0]!r}"
        )
    return max(fitting, key=lambda each: len(each[1]))


def fate(block: Block) -> Fate:
    return TABLE[key(block)]
