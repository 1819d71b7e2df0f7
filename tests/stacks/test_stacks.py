"""Stack files as people write them, deployed unchanged by the stock docker command: what they ask
for runs, follows changes of the file, goes back, and is removed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker

from tests.conformance.client import Daemon
from tests.stacks.stack import FILES, Stack

Make = Callable[[str, str], Stack]


def test_a_shop_with_a_database(nodes: list[Daemon], stack: Make) -> None:
    shop = stack("shop", "web-database")
    manager = nodes[0]
    manager.ok("node", "update", "--label-add", "database=true", "node2")
    manager.ok("secret", "create", "shop_session_key", "-", stdin=b"key")
    assert "Creating service shop_web" in shop.deploy()
    shop.runs(web="2/2", worker="1/1", cache="1/1", db="1/1")
    assert [task["Node"] for task in shop.tasks("db")] == ["node2"]
    assert {c["State"]["Health"]["Status"] for c in shop.containers("web")} == {"healthy"}
    assert {c["Config"]["Hostname"] for c in shop.containers("web")} == {"web-1", "web-2"}
    assert shop.files("db") == [{"/run/secrets/db_password": b"correct-horse-battery-staple"}]
    assert nodes[1].ok("volume", "ls", "-q", "--filter", "label=com.example.backup=nightly") == (
        "shop_db-data\n"
    )
    web = shop.service("web")["Spec"]
    assert web["EndpointSpec"]["Ports"][0]["PublishedPort"] == 8088
    aliases = {alias for n in web["TaskTemplate"]["Networks"] for alias in n["Aliases"]}
    assert aliases == {"web", "shop.internal"}

    # A secret cannot change under its name, and the file says so; another name replaces it.
    shop.change({"battery": "engine"}, "db_password.txt")
    said = manager.refused("stack", "deploy", "-c", shop.file, "shop")
    assert "only updates to Labels are allowed" in said
    shop.change({"_VERSION:-1.4.2}": "_VERSION:-1.5.0}", "_VERSION:-1}": "_VERSION:-2}"})
    shop.change({"LOG_LEVEL: info": "LOG_LEVEL: debug", "replicas: 2": "replicas: 3"})
    shop.deploy()
    shop.runs(web="3/3", worker="1/1", cache="1/1", db="1/1")
    assert shop.image("web").endswith(":1.5.0")
    assert {env["LOG_LEVEL"] for env in shop.variables("web")} == {"debug"}
    assert shop.files("db") == [{"/run/secrets/db_password": b"correct-horse-engine-staple"}]
    manager.ok("secret", "rm", "shop_db_password_1")
    manager.ok("service", "update", "-q", "--env-add", "LOG_LEVEL=trace", "shop_web")
    manager.ok("service", "rollback", "-q", "shop_web")
    shop.runs(web="3/3", worker="1/1", cache="1/1", db="1/1")
    assert {env["LOG_LEVEL"] for env in shop.variables("web")} == {"debug"}
    shop.remove()
    assert nodes[1].ok("volume", "ls", "-q") == "shop_db-data\n"


def test_a_poll_of_five_services(nodes: list[Daemon], stack: Make) -> None:
    poll = stack("poll", "voting")
    poll.deploy()
    asked = {"redis": "1/1", "db": "1/1", "vote": "2/2", "result": "1/1", "worker": "2/2"}
    poll.runs(**asked)
    assert {task["Node"] for task in poll.tasks("db")} == {"node1"}
    assert len(poll.service("worker")["Spec"]["TaskTemplate"]["Networks"]) == 2
    poll.change({"poll-vote:2024-05": "poll-vote:2024-06", "OPTION_A=Tea": "OPTION_A=Water"})
    poll.deploy()
    poll.runs(**asked)
    assert poll.image("vote").endswith("2024-06")
    nodes[0].ok("service", "rollback", "-q", "poll_vote")
    poll.runs(**asked)
    assert poll.image("vote").endswith("2024-05")
    assert {env["OPTION_A"] for env in poll.variables("vote")} == {"Tea"}
    # A file without a service leaves that service alone, until it is told not to.
    text = Path(poll.file).read_text()
    start, end = text.index("  worker:"), text.index("networks:\n  frontend:")
    poll.change({text[start:end]: ""})
    poll.deploy()
    poll.runs(**asked)
    assert "Removing service poll_worker" in poll.deploy("--prune")
    del asked["worker"]
    poll.runs(**asked)
    poll.remove()


def test_monitoring_with_an_agent_on_every_node(nodes: list[Daemon], stack: Make) -> None:
    watch = stack("watch", "monitoring")
    watch.deploy()
    asked = {"node-exporter": "2/2", "cadvisor": "2/2", "prometheus": "1/1", "alertmanager": "1/1",
             "grafana": "1/1"}  # fmt: skip
    watch.runs(**asked)
    for container in watch.containers("node-exporter"):
        mounts = {m["Source"]: m for m in container["Mounts"]}
        assert {"/", "/proc", "/sys", "/etc/hostname"} == set(mounts)
        assert not any(m["RW"] for m in mounts.values())
        assert mounts["/"]["Propagation"] == "rslave"
    assert {c["Config"]["Hostname"] for c in watch.containers("node-exporter")} == {
        "node1",
        "node2",
    }
    assert "up{job=" in watch.files("prometheus")[0]["/etc/prometheus/rules/nodes.yml"].decode()
    watch.change({"scrape_interval: 15s": "scrape_interval: 5s"}, "prometheus.yml")
    watch.change({"CONFIG_VERSION:-1": "CONFIG_VERSION:-2", "v1.8.2": "v1.9.0"})
    watch.deploy("--prune")
    watch.runs(**asked)
    assert watch.image("node-exporter").endswith("v1.9.0")
    assert b"interval: 5s" in watch.files("prometheus")[0]["/etc/prometheus/prometheus.yml"]
    nodes[0].ok("service", "rollback", "-q", "watch_node-exporter")
    watch.runs(**asked)
    assert watch.image("node-exporter").endswith("v1.8.2")
    watch.remove()


def test_a_management_page_with_agents(nodes: list[Daemon], stack: Make) -> None:
    page = stack("console", "management")
    page.deploy()
    page.runs(agent="2/2", console="1/1")
    assert {env["NODE"] for env in page.variables("agent")} == {"node1", "node2"}
    (container,) = page.containers("console")
    assert container["Args"][-3:] == ["-H", "tcp://tasks.agent:9001", "--tlsskipverify"]
    assert page.service("agent")["Spec"]["Mode"] == {"Global": {}}
    # What the page asks its agents, each of its own node.
    for node in nodes:
        client = docker.DockerClient(base_url=f"unix://{node.path}", version="1.41")
        running = client.containers.list(filters={"label": "com.docker.stack.namespace=console"})
        names = {c.labels["com.docker.swarm.service.name"] for c in running}
        assert "console_agent" in names
        assert client.info()["Swarm"]["ControlAvailable"] == (node is nodes[0])
        client.close()
    page.change({"2.21.4": "2.21.5"})
    page.deploy("--prune", "--resolve-image", "changed")
    page.runs(agent="2/2", console="1/1")
    nodes[0].ok("service", "rollback", "-q", "console_agent")
    page.runs(agent="2/2", console="1/1")
    assert page.image("agent").endswith("2.21.4")
    page.remove()


def routers(node: Daemon) -> dict[str, tuple[str, int]]:
    """What a proxy makes of the services: rules, with the port and how many backends there are."""
    client = docker.DockerClient(base_url=f"unix://{node.path}", version="1.24")
    network = client.networks.list(names=["public"])[0]
    found = {}
    for service in client.services.list(filters={"label": "traefik.enable=true"}):
        labels = service.attrs["Spec"]["Labels"]
        for key, rule in labels.items():
            if key.startswith("traefik.http.routers.") and key.endswith(".rule"):
                name = key.split(".")[3]
                port = labels[f"traefik.http.services.{name}.loadbalancer.server.port"]
                assert any(
                    v["NetworkID"] == network.id for v in service.attrs["Endpoint"]["VirtualIPs"]
                )
                tasks = service.tasks(filters={"desired-state": "running"})
                backends = [
                    attached["Addresses"]
                    for task in tasks
                    if task["Status"]["State"] == "running"
                    for attached in task["NetworksAttachments"]
                    if attached["Network"]["ID"] == network.id
                ]
                found[rule] = (port, len(backends))
    client.close()
    return found


def test_a_proxy_that_reads_labels(nodes: list[Daemon], stack: Make, monkeypatch: Any) -> None:
    nodes[0].ok("network", "create", "--driver", "overlay", "--attachable", "public")
    monkeypatch.setenv("DOMAIN", "example.com")
    edge = stack("edge", "proxy")
    edge.deploy()
    edge.runs(proxy="1/1", whoami="3/3", redirect="1/1")
    assert routers(nodes[0]) == {
        "Host(`traefik.example.com`)": ("8080", 1),
        "Host(`whoami.example.com`) && PathPrefix(`/`)": ("80", 3),
        "HostRegexp(`^(www\\.)?old\\.example.com$`)": ("80", 1),
    }
    monkeypatch.setenv("DOMAIN", "example.org")
    edge.change({"replicas: 3": "replicas: 2", "whoami:v1.10": "whoami:v1.11"})
    edge.deploy()
    edge.runs(proxy="1/1", whoami="2/2", redirect="1/1")
    assert routers(nodes[0])["Host(`whoami.example.org`) && PathPrefix(`/`)"] == ("80", 2)
    nodes[0].ok("service", "rollback", "-q", "edge_whoami")
    edge.runs(proxy="1/1", whoami="3/3", redirect="1/1")
    assert "Host(`whoami.example.com`) && PathPrefix(`/`)" in routers(nodes[0])
    edge.remove()
    nodes[0].ok("network", "rm", "public")


def test_a_queue_with_consumers(nodes: list[Daemon], stack: Make) -> None:
    manager = nodes[0]
    for node in nodes:
        node.ok("volume", "create", "orders-broker")
    manager.ok("secret", "create", "erlang_cookie", "-", stdin=b"cookie")
    manager.ok("config", "create", "enabled_plugins", "-", stdin=b"[rabbitmq_management].")
    orders = stack("orders", "queue")
    orders.deploy()
    asked = {"broker": "1/1", "producer": "2/2", "consumer-mail": "4/4", "consumer-invoice": "1/1",
             "consumer-legacy": "0/0"}  # fmt: skip
    orders.runs(**asked)
    assert {e["PRODUCER"] for e in orders.variables("producer")} == {
        "orders_producer.1", "orders_producer.2",
    }  # fmt: skip
    assert {e["PREFETCH"] for e in orders.variables("consumer-mail")} == {"20"}
    assert sorted(t["Node"] for t in orders.tasks("consumer-mail")) == ["node1"] * 2 + ["node2"] * 2
    assert orders.files("broker") == [
        {
            "/var/lib/rabbitmq/.erlang.cookie": b"cookie",
            "/run/secrets/amqp_password": b"swordfish",
            "/etc/rabbitmq/rabbitmq.conf": (FILES / "queue" / "rabbitmq.conf").read_bytes(),
            "/etc/rabbitmq/enabled_plugins": b"[rabbitmq_management].",
        }
    ]
    orders.change({"swordfish": "marlin"}, "amqp_password")
    orders.change({"TAG:-7": "TAG:-8", "replicas: 4": "replicas: 6", "replicas: 0": "replicas: 1"})
    orders.deploy()
    more = asked | {"consumer-mail": "6/6", "consumer-legacy": "1/1"}
    orders.runs(**more)
    assert {f["/run/secrets/amqp_password"] for f in orders.files("consumer-mail")} == {b"marlin"}
    manager.ok("service", "rollback", "-q", "orders_consumer-mail")
    orders.runs(**more | {"consumer-mail": "4/4"})
    assert {f["/run/secrets/amqp_password"] for f in orders.files("consumer-mail")} == {
        b"swordfish"
    }
    orders.remove()


def test_a_release_with_a_migration(nodes: list[Daemon], stack: Make) -> None:
    ledger = stack("ledger", "migration")
    said = ledger.deploy("--detach=false")
    assert "job complete" in said
    assert "converged" in said
    asked = {"api": "2/2", "db": "1/1", "migrate": "0/2 (2/2 completed)",
             "flush": "0/0 (2/2 completed)"}  # fmt: skip
    ledger.runs(**asked)
    assert {t["CurrentState"].split()[0] for t in ledger.tasks("migrate")} == {"Complete"}
    assert {t["Node"] for t in ledger.tasks("flush")} == {"node1", "node2"}
    ledger.change({"RELEASE:-31": "RELEASE:-32"})
    ledger.deploy("--prune")
    ledger.runs(**asked)
    assert ledger.service("migrate")["JobStatus"]["JobIteration"] == {"Index": 1}
    assert ledger.image("api").endswith("/api:32")
    nodes[0].ok("service", "rollback", "-q", "ledger_api")
    ledger.runs(**asked)
    assert ledger.image("api").endswith("/api:31")
    ledger.remove()


def test_encrypted_tiers_with_templates(nodes: list[Daemon], stack: Make) -> None:
    bank = stack("bank", "sealed")
    bank.deploy()
    asked = {"gateway": "3/3 (max 3 per node)", "ledger": "2/2", "keystore": "1/1"}
    bank.runs(**asked)
    for container, variables, files in zip(
        bank.containers("gateway"), bank.variables("gateway"), bank.files("gateway"), strict=True
    ):
        slot = variables["SLOT"]
        node = variables["NODE"]
        assert container["Config"]["Hostname"] == f"bank_gateway-{slot}"
        assert variables["PLATFORM"] == "linux/x86_64"
        assert (variables["STACK"], variables["TIER"]) == ("bank", "edge")
        assert variables["PRIMARY"] == ("yes" if slot == "1" else "no")
        assert files["/etc/gateway.conf"].decode() == (
            f"# bank_gateway on {node}\nlisten = 0.0.0.0:8080\nupstream = books:9000\n"
            "stack = bank\ntier = edge\n"
        )
    for network in ("dmz", "middle", "vault"):
        shown = json.loads(nodes[0].ok("network", "inspect", f"bank_{network}"))[0]
        assert "encrypted" in shown["Options"]
    assert nodes[0].ok("volume", "ls", "-q") == "bank_keystore-keys\n"
    bank.change({"listen = 0.0.0.0:8080": "listen = [::]:8080"}, "gateway.conf.tmpl")
    bank.change(
        {"CONFIG_VERSION:-1": "CONFIG_VERSION:-2", "example.tier: edge": "example.tier: rim"}
    )
    bank.deploy("--prune")
    bank.runs(**asked)
    changed = {files["/etc/gateway.conf"].decode() for files in bank.files("gateway")}
    assert all("listen = [::]:8080" in text and "tier = rim" in text for text in changed)
    nodes[0].ok("service", "rollback", "-q", "bank_gateway")
    bank.runs(**asked)
    assert {variables["TIER"] for variables in bank.variables("gateway")} == {"edge"}
    bank.remove()


def test_replicas_with_volumes_and_names_of_their_own(nodes: list[Daemon], stack: Make) -> None:
    ring = stack("ring", "replicas")
    ring.deploy()
    asked = {"store": "3/3 (max 3 per node)", "sentinel": "2/2", "files": "1/1"}
    ring.runs(**asked)
    for container, variables in zip(ring.containers("store"), ring.variables("store"), strict=True):
        name = variables["STORE_NAME"]
        assert container["Config"]["Hostname"] == name
        assert container["Mounts"][0]["Name"] == name.replace("store-", "ring_store-")
    assert "Endpoint" in ring.service("store")
    ring.change(
        {
            "keystore:0.9": "keystore:0.10",
            "STORE_EXPECT=3": "STORE_EXPECT=2",
            "replicas: 3": "replicas: 2",
        }
    )
    ring.deploy("--prune")
    ring.runs(**asked | {"store": "2/2 (max 3 per node)"})
    nodes[0].ok("service", "rollback", "-q", "ring_store")
    ring.runs(**asked)
    assert ring.image("store").endswith(":0.9")
    ring.remove()
