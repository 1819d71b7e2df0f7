"""The daemon's options and its file: what wins, and what is refused with which words."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from weft.cli.configuration import make_options, read_config
from weft.cli.daemon import command
from weft.daemon.options import TcpHost
from weft.errors import InvalidArgument


@pytest.fixture
def pems(tmp_path: Path) -> dict[str, object]:
    """A certificate that is its own CA, and its key."""
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=x",
            "-keyout",
            tmp_path / "key.pem",
            "-out",
            tmp_path / "cert.pem",
        ],
        check=True,
        capture_output=True,
    )
    certificate = str(tmp_path / "cert.pem")
    return {
        "tlsverify": True,
        "tlscacert": certificate,
        "tlscert": certificate,
        "tlskey": str(tmp_path / "key.pem"),
    }


def metrics_files(pems: dict[str, object]) -> dict[str, object]:
    names = {"tlscacert": "metrics-cacert", "tlscert": "metrics-cert", "tlskey": "metrics-key"}
    return {name: pems[key] for key, name in names.items()}


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1:9324", "192.0.2.1", 9324),
        ("[::1]:9323", "::1", 9323),
        ("[::1]", "::1", 9323),
        ("node1", "node1", 9323),
        (":9323", "0.0.0.0", 9323),
    ],
)
def test_an_address_for_metrics(
    pems: dict[str, object], text: str, address: str, port: int
) -> None:
    options = make_options({"metrics-address": text, **metrics_files(pems)})
    assert options.metrics is not None
    assert options.metrics.host == TcpHost(address, port)
    assert str(options.metrics.files.key) == pems["tlskey"]
    assert options.tls is None, "the API needs files of its own"


def test_metrics_are_served_with_mutual_tls_only(pems: dict[str, object]) -> None:
    files = metrics_files(pems)
    with pytest.raises(InvalidArgument) as refused:
        make_options({"metrics-address": "127.0.0.1:9323"})
    assert str(refused.value) == (
        "cannot use metrics-address '127.0.0.1:9323': it needs mutual TLS, and metrics-cacert,"
        " metrics-cert, metrics-key not set"
    )
    with pytest.raises(InvalidArgument, match="metrics-key not set"):
        make_options({"metrics-address": "127.0.0.1:9323", **files, "metrics-key": ""})
    with pytest.raises(InvalidArgument, match="cannot use metrics-cacert, .*address is not set"):
        make_options(files)
    for wrong in ("tcp://127.0.0.1:9323", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x"):
        with pytest.raises(InvalidArgument, match=f"metrics-address '{wrong}': it must be HOST"):
            make_options({"metrics-address": wrong, **files})
    with pytest.raises(InvalidArgument, match=r"cannot use metrics-key 'key\.pem'"):
        make_options({"metrics-address": "127.0.0.1", **files, "metrics-key": "key.pem"})


def write(directory: Path, text: str) -> Path:
    path = directory / "config.toml"
    path.write_text(text)
    return path


def test_hosts_labels_and_files(pems: dict[str, object]) -> None:
    hosts = ["tcp://0.0.0.0:2376", "tcp://[::1]", "unix:///run/other.sock"]
    options = make_options({**pems, "hosts": hosts, "labels": ["zone=a", "ssd"]})
    assert options.tcp == (TcpHost("0.0.0.0", 2376), TcpHost("::1", 2376))
    assert options.sockets == (Path("/run/other.sock"),)
    assert options.labels == {"zone": "a", "ssd": ""}
    assert options.tls is not None
    assert options.tls.key == Path(str(pems["tlskey"]))


@pytest.mark.parametrize("key", ["tlscacert", "tlscert", "tlskey"])
def test_tcp_needs_every_file(pems: dict[str, object], key: str) -> None:
    del pems[key]
    with pytest.raises(
        InvalidArgument, match=f"cannot serve tcp://0.0.0.0:2376 with tlsverify: {key} not set"
    ):
        make_options({**pems, "hosts": ["tcp://0.0.0.0:2376"]})


def test_tcp_needs_tlsverify(pems: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="tlsverify is not set"):
        make_options({**pems, "hosts": ["tcp://0.0.0.0:2376"], "tlsverify": False})


@pytest.mark.parametrize(
    "host", ["http://x:1", "tcp://x:0", "tcp://x:99999", "tcp://x:y", "2376", "unix://relative"]
)
def test_hosts_that_are_none(pems: dict[str, object], host: str) -> None:
    with pytest.raises(InvalidArgument):
        make_options({**pems, "hosts": [host]})


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("2500ms", 2.5), ("50s", 50)])
def test_etcds_election_timeout(text: str, seconds: float) -> None:
    given = {"etcd-election-timeout": text, "store": "etcd://127.0.0.1"}
    options = make_options(given)
    assert options.pace.election == seconds
    assert options.store is not None
    assert options.store.pace == options.pace, "the daemon's own deadlines, for an etcd elsewhere"


@pytest.mark.parametrize("text", ["", "0", "5", "999ms", "51s", "1m", "-1s", "1.5s", "٣s"])
def test_election_timeouts_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="it must be a time from 1s to 50s"):
        make_options({"etcd-election-timeout": text})


def test_generic_resources_of_the_node() -> None:
    options = make_options({"node-generic-resources": ["GPU=a", "GPU=b", "licences=3"]})
    assert [(r.kind, r.name, r.amount) for r in options.generic] == [
        ("GPU", "a", 1), ("GPU", "b", 1), ("licences", "", 3),
    ]  # fmt: skip
    with pytest.raises(InvalidArgument, match="cannot use node-generic-resources: could not parse"):
        make_options({"node-generic-resources": ["GPU"]})


@pytest.mark.parametrize("labels", [["=a"], ["a b=c"], ["a=1", "a=2"]])
def test_labels_that_are_none(labels: list[str]) -> None:
    with pytest.raises(InvalidArgument, match="cannot use label"):
        make_options({"labels": labels})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tlsverify = 'yes'", "tlsverify must be true or false"),
        ("hosts = 'unix:///x'", "hosts must be a list of strings"),
        ("labels = [1]", "labels must be a list of strings"),
        ("socket = 1", "socket must be a string"),
        ("color = 'red'", "unknown key 'color'"),
    ],
)
def test_files_of_the_wrong_kind(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        read_config(write(tmp_path, text))


def test_check_config_reads_the_certificates(tmp_path: Path, pems: dict[str, object]) -> None:
    lines = [f'{key} = "{value}"' for key, value in pems.items() if isinstance(value, str)]
    path = write(
        tmp_path, "\n".join(["tlsverify = true", 'hosts = ["tcp://127.0.0.1:2376"]', *lines])
    )
    arguments = ["--check-config", "--config", str(path)]
    assert CliRunner().invoke(command, arguments).output.startswith("configuration OK")
    given = CliRunner().invoke(command, [*arguments, "--tlskey", str(tmp_path / "none.pem")])
    assert isinstance(given.exception, InvalidArgument)
    assert "none.pem: No such file" in str(given.exception)


@pytest.fixture
def store_files(pems: dict[str, object]) -> dict[str, object]:
    return {
        "store-cacert": pems["tlscacert"],
        "store-cert": pems["tlscert"],
        "store-key": pems["tlskey"],
    }


def test_a_store_elsewhere(store_files: dict[str, object]) -> None:
    url = "etcd://192.0.2.21:2379,etcd2.example,[2001:db8::1]:4001"
    store = make_options({**store_files, "store": url, "store-prefix": "/swarms/a/"}).store
    assert store is not None
    assert store.endpoints == ("192.0.2.21:2379", "etcd2.example:2379", "[2001:db8::1]:4001")
    assert (store.prefix, store.files is not None) == ("/swarms/a/", True)
    assert make_options({}).store is None


def test_this_host_itself_may_be_asked_without_tls() -> None:
    store = make_options({"store": "etcd://127.0.0.1:2379,localhost,[::1]:2379"}).store
    assert store is not None
    assert (store.files, store.context(), store.prefix) == (None, None, "/weft/")


@pytest.mark.parametrize(
    "url", ["etcd://192.0.2.21:2379", "etcd://127.0.0.1,192.0.2.21", "etcd://localhost.example"]
)
def test_nobody_else_is_asked_without_tls(url: str) -> None:
    with pytest.raises(
        InvalidArgument, match="needs mutual TLS, and store-cacert, store-cert, store-key not set"
    ):
        make_options({"store": url})


@pytest.mark.parametrize("key", ["store-cacert", "store-cert", "store-key"])
def test_a_store_needs_every_file(store_files: dict[str, object], key: str) -> None:
    del store_files[key]
    for url in ("etcd://192.0.2.21", "etcd://127.0.0.1"):
        with pytest.raises(InvalidArgument, match=f"needs mutual TLS, and {key} not set"):
            make_options({**store_files, "store": url})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"store": "http://127.0.0.1:2379"}, "it must be etcd://"),
        ({"store": "etcd://"}, "it must be etcd://"),
        ({"store": "etcd://127.0.0.1:x"}, "cannot use store"),
        ({"store": "etcd://127.0.0.1:2379,"}, "it must be etcd://"),
        ({"store": "etcd://127.0.0.1", "store-prefix": "weft"}, "begin and end with a slash"),
        ({"store-prefix": "/other/"}, "store is not set"),
        ({"store-key": "/x"}, "cannot use store-key: store is not set"),
        (
            {
                "store": "etcd://192.0.2.1",
                "store-cacert": "x",
                "store-cert": "/x",
                "store-key": "/x",
            },
            "must be an absolute path",
        ),
        (
            {
                "store": "etcd://192.0.2.1",
                "store-cacert": "/x",
                "store-cert": "/x",
                "store-key": "/x",
            },
            "cannot read /x",
        ),
    ],
)
def test_stores_that_are_none(given: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        make_options(given)


def test_check_config_reads_the_store_s_files(
    tmp_path: Path, store_files: dict[str, object]
) -> None:
    lines = [f'{key} = "{value}"' for key, value in store_files.items()]
    path = write(tmp_path, "\n".join(['store = "etcd://192.0.2.21"', *lines]))
    arguments = ["--check-config", "--config", str(path)]
    assert CliRunner().invoke(command, arguments).output.startswith("configuration OK")
    given = CliRunner().invoke(command, [*arguments, "--store-key", str(tmp_path / "none.pem")])
    assert isinstance(given.exception, InvalidArgument)
    assert "none.pem: No such file" in str(given.exception)


DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "absent": None,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "garbage": lambda content: random.Random(1).randbytes(len(content)),
}


def damage(path: Path, how: str) -> None:
    change = DAMAGES[how]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(
    "key", ["tlscacert", "tlscert", "tlskey", "store-cacert", "store-cert", "store-key"]
)
def test_a_damaged_file_is_named(
    pems: dict[str, object], store_files: dict[str, object], key: str, how: str
) -> None:
    given = {**pems, **store_files, "hosts": ["tcp://0.0.0.0:2376"]}
    path = Path(str(given[key]))
    damage(path, how)
    with pytest.raises(InvalidArgument, match=f"cannot (read|use) .*{path}"):
        make_options(given)


@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "empty"])
def test_a_damaged_configuration_is_named(tmp_path: Path, how: str) -> None:
    """An empty one says nothing, which is its right."""
    path = write(tmp_path, 'labels = ["zone=a", "disk=ssd"]\n')
    damage(path, how)
    with pytest.raises(InvalidArgument, match=f"cannot read configuration {path}"):
        read_config(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("insecure-registries", "http://reg.test"),
        ("insecure-registries", "192.0.2.1/24"),
        ("insecure-registries", ""),
        ("registry-mirrors", "mirror.test"),
        ("registry-mirrors", "ftp://mirror.test"),
        ("registry-mirrors", "https://me:pw@mirror.test"),
        ("registry-mirrors", 'https://mirror.test/"'),
    ],
)
def test_registries_that_cannot_be_used(key: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=f"cannot use {key}"):
        make_options({key: [value]})


def test_registries_of_the_configuration() -> None:
    options = make_options(
        {
            "insecure-registries": ["reg.test:5000", "192.0.2.0/24"],
            "registry-mirrors": ["https://mirror.test/hub"],
        }
    )
    assert options.registries.is_insecure("192.0.2.3:5000")
    assert options.registries.mirrors == ("https://mirror.test/hub",)
