"""Kernel parameters, and what it means when a kernel has none of a kind. The tree is a directory of
files, like the real one."""

from pathlib import Path

import pytest

from weft.linux import sysctl


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysctl, "_ROOT", tmp_path)
    (tmp_path / "net/ipv4/conf/eth0.100").mkdir(parents=True)
    (tmp_path / "net/ipv4/conf/eth0.100/rp_filter").write_text("1\n")
    (tmp_path / "net/ipv4/ip_local_port_range").write_text("32768\t60999\n")
    return tmp_path


def test_a_host_that_begins_to_forward_keeps_its_routers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysctl, "_ROOT", tmp_path)
    before = {  # accept_ra, forwarding
        "eth0": ("1", "0"), "eth1": ("0", "0"), "eth2": ("2", "0"), "eth3": ("1", "1"),
        "default": ("1", "0"), "all": ("1", "0"), "lo": ("1", "0"),
    }  # fmt: skip
    for name, (accepts, forwards) in before.items():
        directory = tmp_path / "net/ipv6/conf" / name
        directory.mkdir(parents=True)
        (directory / "accept_ra").write_text(accepts)
        (directory / "forwarding").write_text(forwards)

    def accepting() -> dict[str, str | None]:
        return {name: sysctl.read(f"net.ipv6.conf.{name}.accept_ra") for name in before}

    sysctl.write("net.ipv6.conf.all.forwarding", "0")
    assert accepting() == {name: accepts for name, (accepts, _) in before.items()}
    sysctl.write("net.ipv6.conf.all.forwarding", "1")
    assert sysctl.read("net.ipv6.conf.all.forwarding") == "1"
    assert accepting() == {
        "eth0": "2", "eth1": "0", "eth2": "2", "eth3": "1", "default": "2", "all": "1", "lo": "1",
    }  # fmt: skip


def test_values_are_read_by_dotted_name(tree: Path) -> None:
    assert sysctl.read("net.ipv4.conf.eth0/100.rp_filter") == "1"
    assert sysctl.read("net.ipv4.ip_local_port_range") == "32768 60999"
    assert sysctl.read("net.ipv4.nothing") is None


def test_a_kernel_without_bridge_netfilter_or_ipv6(tree: Path) -> None:
    assert sysctl.when_absent("net.bridge.bridge-nf-call-iptables") == "0"
    assert sysctl.when_absent("net.ipv6.conf.all.disable_ipv6") == "1"
    assert sysctl.when_absent("net.ipv4.ip_forward") is None


def test_a_missing_interface_means_nothing(tree: Path) -> None:
    (tree / "net/ipv6/conf/all").mkdir(parents=True)
    assert sysctl.when_absent("net.ipv6.conf.eth7.disable_ipv6") is None


def test_a_device_from_which_the_kernel_took_ipv6_away(tree: Path) -> None:
    (tree / "net/ipv6/conf/all").mkdir(parents=True)
    assert sysctl.when_absent("net.ipv6.conf.eth0/100.disable_ipv6") == "1"
    assert sysctl.when_absent("net.ipv6.conf.eth0/100.forwarding") is None
