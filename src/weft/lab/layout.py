"""Names, addresses and paths of the lab. No effects here.

The real lab has the fixed names of the default `Layout`, so that scripts can rely on them. A test
makes a layout with another name, subnet and directories, and so never meets a lab that somebody is
using.

    weft0 10.59.72.254/24      bridge in the machine's own network namespace
    ├─ weft-n1 ── ens160 10.59.72.11   node1 (the manager)
    ├─ weft-n2 ── ens160 10.59.72.12   node2
    ├─ …
    └─ weft-client ── ens160 10.59.72.100   client: a machine outside the cluster, without a daemon
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from weft.lab.enter import RUN

CLIENT = "client"
UNDERLAY = IPv4Network("10.59.72.0/24")
UPLINK = "ens160"
"""A host's interface on the underlay."""
MAX_NODES = 80
"""node81 would have the address 10.59.72.91; the client has .100, so there is some room for
mistakes."""


@dataclass(frozen=True)
class Host:
    """One host of the lab."""

    name: str
    address: IPv4Address
    link: str
    """The bridge's end of its cable."""
    run: Path
    """Its /run, as seen from outside."""
    data: Path
    """Its /var/lib/weft, as seen from outside."""
    record: Path
    """File that names its first process."""
    daemon_record: Path
    log: Path
    """Output of its daemon, and before that of the boot script."""

    @property
    def socket(self) -> Path:
        return self.run / "docker.sock"


@dataclass(frozen=True)
class Layout:
    name: str = "weft"
    """Prefix of links and control groups; at most eight characters, since links may have
    fifteen."""
    subnet: IPv4Network = UNDERLAY
    run: Path = Path(RUN)
    data: Path = Path("/var/lib/weft/lab")

    @property
    def bridge(self) -> str:
        return f"{self.name}0"

    @property
    def bridge_address(self) -> IPv4Address:
        return self.subnet[254]

    @property
    def state(self) -> Path:
        """The path at which each host sees its own data: a directory that exists on the machine
        anyway, /var/lib/weft."""
        return self.data.parent

    @property
    def cgroup(self) -> str:
        return f"{self.name}-lab"

    def node(self, number: int) -> Host:
        """nodeK; K from 1."""
        return self._host(f"node{number}", self.subnet[10 + number], f"{self.name}-n{number}")

    def nodes(self, count: int) -> list[Host]:
        return [self.node(number) for number in range(1, count + 1)]

    @property
    def client(self) -> Host:
        return self._host(CLIENT, self.subnet[100], f"{self.name}-client")

    def _host(self, name: str, address: IPv4Address, link: str) -> Host:
        return Host(
            name=name,
            address=address,
            link=link,
            run=self.run / name,
            data=self.data / name,
            record=self.run / f"{name}.init",
            daemon_record=self.run / f"{name}.daemon",
            log=self.run / f"{name}.log",
        )
