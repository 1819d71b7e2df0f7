"""The daemon's options and its file: what wins, and what is refused with which words."""

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from weft.cli.configuration import make_options, read_config
from weft.cli.daemon import command
from weft.errors import InvalidArgument
from weft.node import TcpHost


@pytest.fixture
def pems(tmp_path: Path) -> dict[str, object]:
    """A certificate that is its own CA, and its key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True,
    )  # fmt: skip
    certificate = str(tmp_path / "cert.pem")
    return {"tlsverify": True, "tlscacert": certificate, "tlscert": certificate, "tlskey": str(tmp_path / "key.pem")}


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
    with pytest.raises(InvalidArgument, match=f"cannot serve tcp://0.0.0.0:2376 with tlsverify: {key} not set"):
        make_options({**pems, "hosts": ["tcp://0.0.0.0:2376"]})


def test_tcp_needs_tlsverify(pems: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="tlsverify is not set"):
        make_options({**pems, "hosts": ["tcp://0.0.0.0:2376"], "tlsverify": False})


@pytest.mark.parametrize("host", ["http://x:1", "tcp://x:0", "tcp://x:99999", "tcp://x:y", "2376", "unix://relative"])
def test_hosts_that_are_none(pems: dict[str, object], host: str) -> None:
    with pytest.raises(InvalidArgument):
        make_options({**pems, "hosts": [host]})


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
    path = write(tmp_path, "\n".join(["tlsverify = true", 'hosts = ["tcp://127.0.0.1:2376"]', *lines]))
    arguments = ["--check-config", "--config", str(path)]
    assert CliRunner().invoke(command, arguments).output == "configuration OK\n"
    given = CliRunner().invoke(command, [*arguments, "--tlskey", str(tmp_path / "none.pem")])
    assert isinstance(given.exception, InvalidArgument)
    assert "none.pem: No such file" in str(given.exception)
