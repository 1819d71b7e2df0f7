"""Two stack files as people write them, deployed by the stock docker command, used through their
published ports, updated and removed: a shop with a database, and encrypted tiers with templates.
Their images are stand-ins."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import stand_ins
from tests.cluster.conftest import Cluster

FILES = Path(__file__).parents[1] / "stacks" / "files"
SHOP, BANK = 8088, 8089


@pytest.fixture(scope="module")
def images(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    archive = tmp_path_factory.mktemp("images") / "stand-ins.tar"
    stand_ins.write_archive(archive)
    for node in cluster.nodes:
        cluster.docker(node, "load", "-q", "-i", str(archive))
    yield
    for node in cluster.nodes:
        cluster.eventually(lambda node=node: cluster.docker(node, "rmi", *stand_ins.IMAGES))


class Stack:
    """A copy of a stack's files, which a test may change and deploy again."""

    def __init__(self, cluster: Cluster, name: str, directory: Path) -> None:
        self.cluster, self.name, self.directory = cluster, name, directory

    def change(self, changes: dict[str, str], file: str = "compose.yml") -> None:
        """Puts other words into a file."""
        path = self.directory / file
        for old, new in changes.items():
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))

    def deploy(self) -> None:
        self.cluster.docker(
            "node1", "stack", "deploy", "--resolve-image", "never", "--prune",
            "-c", str(self.directory / "compose.yml"), self.name,
        )  # fmt: skip

    def runs(self, **replicas: str) -> None:
        """Returns when each service has these replicas."""
        wanted = {f"{self.name}_{service}": count for service, count in replicas.items()}
        self.cluster.eventually(lambda: self.replicas() == wanted, 30, f"{wanted}")

    def replicas(self) -> dict[str, str]:
        shown = self.cluster.docker(
            "node1", "stack", "services", self.name, "--format", "{{.Name}} {{.Replicas}}"
        )
        return dict(line.split()[:2] for line in shown.splitlines())

    def remove(self) -> None:
        """Nothing but its volumes is left."""
        self.cluster.docker("node1", "stack", "rm", self.name)
        label = ("--filter", f"label=com.docker.stack.namespace={self.name}")
        for kind in ("secret", "config"):
            assert self.cluster.docker("node1", kind, "ls", "-q", *label) == ""
        for node in self.cluster.nodes:
            for kind, all in (("container", "-aq"), ("network", "-q")):
                listed = ("docker", "-H", f"unix:///run/weft/lab/{node}/docker.sock")
                self.cluster.eventually(
                    lambda listed=listed, kind=kind, all=all: (
                        self.cluster.run(*listed, kind, "ls", all, *label).stdout == ""
                    ),
                    20,
                    f"{kind}s of {self.name} gone from {node}",
                )


@pytest.fixture
def stack(cluster: Cluster, images: None, tmp_path: Path) -> Iterator[Callable[[str, str], Stack]]:
    made: list[str] = []

    def make(name: str, directory: str) -> Stack:
        made.append(name)
        shutil.copytree(FILES / directory, tmp_path / directory)
        return Stack(cluster, name, tmp_path / directory)

    yield make
    for name in made:
        cluster.docker("node1", "stack", "rm", name)


def page(cluster: Cluster, node: str, port: int, path: str) -> list[str]:
    url = f"http://{cluster.nodes[node]}:{port}/cgi-bin/{path}"
    lines: list[str] = cluster.on("client", "curl", "-sS", "--max-time", "5", url).splitlines()
    return lines


def row_of_the_new_version(cluster: Cluster) -> str | None:
    """What the database answers to it, once both know the new password."""
    who, _, row = page(cluster, "node3", SHOP, "order")
    return row if who.startswith("version 1.5.0 on web-") and row != "denied" else None


def test_a_shop_with_a_database(cluster: Cluster, stack: Callable[[str, str], Stack]) -> None:
    shop = stack("shop", "web-database")
    cluster.docker("node1", "node", "update", "--label-add", "database=true", "node2")
    key = shop.directory / "session_key"
    key.write_text("key")
    cluster.docker("node1", "secret", "create", "shop_session_key", str(key))
    shop.deploy()
    shop.runs(web="2/2", worker="1/1", cache="1/1", db="1/1")
    # A task runs a moment before all hosts know its address.
    asked = 2 * list(cluster.nodes)
    cluster.eventually(lambda: all(len(page(cluster, n, SHOP, "order")) == 3 for n in asked))
    _, _, rows = page(cluster, "node1", SHOP, "order")
    before, seen = int(rows.split()[3]), set()
    for count, node in enumerate(asked, start=before + 1):
        who, cache, rows = page(cluster, node, SHOP, "order")
        assert who.startswith("version 1.4.2 on web-")
        assert who.endswith("mode 1000:440")
        assert (cache, rows) == ("cache PONG", f"created as shop, {count} rows")
        seen.add(who)
    assert len(seen) == 2

    # Another version and another password; the rows are still there.
    shop.change({"battery": "engine"}, "db_password.txt")
    shop.change({"_VERSION:-1.4.2}": "_VERSION:-1.5.0}", "_VERSION:-1}": "_VERSION:-2}"})
    shop.deploy()
    # The database begins anew as well, and the page may be asked before it listens.
    found = cluster.eventually(
        lambda: re.fullmatch(r"created as shop, (\d+) rows", row_of_the_new_version(cluster) or ""),
        30,
        "rows from before, on a page of the new version",
    )
    assert int(found[1]) >= 7

    shop.remove()
    assert cluster.docker("node2", "volume", "ls", "-q", "-f", "name=shop_") == "shop_db-data\n"
    cluster.docker("node2", "volume", "rm", "shop_db-data")
    cluster.docker("node1", "secret", "rm", "shop_session_key")
    cluster.docker("node1", "node", "update", "--label-rm", "database", "node2")


def test_encrypted_tiers_with_templates(
    cluster: Cluster, stack: Callable[[str, str], Stack]
) -> None:
    bank = stack("bank", "sealed")
    bank.deploy()
    bank.runs(gateway="3/3", ledger="2/2", keystore="1/1")
    on = {task["Name"]: task["Node"] for task in cluster.running("bank_gateway")}
    nodes = 2 * list(cluster.nodes)
    cluster.eventually(
        lambda: all("seal=1" in page(cluster, node, BANK, "about") for node in nodes), 20, "a seal"
    )
    asked = [page(cluster, node, BANK, "about") for node in nodes]
    for lines in asked:
        about = dict(line.split("=", 1) for line in lines if "=" in line and " " not in line)
        name = about["TASK"].rpartition(".")[0]
        assert about["NODE"] == on[name]
        assert name == f"bank_gateway.{about['SLOT']}"
        assert about["HOST"] == f"bank_gateway-{about['SLOT']}"
        assert about["PRIMARY"] == ("yes" if about["SLOT"] == "1" else "no")
        assert about["PLATFORM"] == "linux/x86_64"
        assert (about["SERVICE"], about["STACK"], about["TIER"]) == ("bank_gateway", "bank", "edge")
        assert f"# bank_gateway on {about['NODE']}" in lines
        assert {"stack = bank", "tier = edge", "precision = 2"} <= set(lines)
        assert (about["key"], about["seal"]) == ("not-much-of-a-key", "1")
    assert len({tuple(lines) for lines in asked}) == 3

    # Another config under the name of the first one.
    bank.change({"precision = 2": "precision = 4"}, "ledger.toml")
    bank.change({"bank_ledger_${CONFIG_VERSION:-1}": "bank_ledger_2", "replicas: 3": "replicas: 1"})
    bank.deploy()
    bank.runs(gateway="1/1", ledger="2/2", keystore="1/1")
    cluster.eventually(lambda: "precision = 4" in page(cluster, "node2", BANK, "about"), 30)
    bank.remove()
    cluster.docker("node1", "volume", "rm", "bank_keystore-keys")
