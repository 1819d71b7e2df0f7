"""A Debian host in QEMU's software emulation, under its own kernel and its own systemd, with one card on a `Segment`.

It boots the disk of `debian_image.py`; what it writes is thrown away with it, but stays over a reboot. Files come on a second
disk, which is an archive of tar. `host_agent.py` runs what the tests ask for, over a virtio port, so it is reachable whatever
becomes of the network. Waits end with an event; they are long, since emulation is some twenty times slower than a machine.
"""

import json
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.vm import debian_image
from tests.vm.segment import Segment

SECONDS = 900
MEMORY = "1G"


class DebianHost:
    def __init__(
        self, release: str, number: int, segment: Segment, scratch: Path, files: Mapping[str, Path]
    ) -> None:
        """Switches it on. `files`: what it finds in /root, by name."""
        self.release, self.name = release, f"host{number}"
        self.address, self.tap = f"10.59.77.1{number}", f"t{number}"
        self._scratch = scratch
        self._pending = b""
        self._boot = ""
        self._files = scratch / "files.tar"
        with tarfile.open(self._files, "w") as archive:
            for name, path in files.items():
                archive.add(path, name)
        segment.plug(self.tap)
        with (scratch / "qemu").open("wb") as log:
            self._emulator = subprocess.Popen(
                ["ip", "netns", "exec", segment.name, *self._command(number)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"TMPDIR": str(scratch)},
            )
        self._port = self._connect()

    def _command(self, number: int) -> list[str]:
        image = debian_image.ensure(self.release)
        words = (
            "root=/dev/vda rootfstype=ext4 rw fsck.mode=skip console=ttyS0 quiet loglevel=4 net.ifnames=0 mitigations=off"
            f" random.trust_cpu=on systemd.hostname={self.name} systemd.show_status=false audit=0"
        )
        return [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", MEMORY,
            "-nodefaults", "-no-user-config", "-display", "none",
            "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd"), "-append", words,
            "-serial", f"file:{self._scratch}/console",
            "-drive", f"file={image}/disk,format=raw,if=virtio,snapshot=on,cache=unsafe",
            "-drive", f"file={self._files},format=raw,if=virtio,readonly=on",
            "-netdev", f"tap,id=wire,ifname={self.tap},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=wire,mac=02:42:0a:3b:4d:1{number},romfile=",
            "-chardev", f"socket,id=port,path={self._scratch}/port,server=on,wait=off",
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=tests",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + SECONDS
        while True:
            port = socket.socket(socket.AF_UNIX)
            try:
                port.connect(str(self._scratch / "port"))
            except OSError:
                port.close()
                if self._emulator.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} was not switched on: {self.log()}") from None
                time.sleep(0.05)
            else:
                return port

    def log(self) -> str:
        files = [self._scratch / "qemu", self._scratch / "console"]
        return "\n".join(f.read_text(errors="replace")[-6000:] for f in files if f.exists())

    # --- first, and after each reboot

    def boot(self) -> None:
        """Returns when systemd has started all that it starts, and the host has its address."""
        self._said_hello()
        self.sh(
            f"printf '[Match]\\nName=eth0\\n[Network]\\nAddress={self.address}/24\\nLinkLocalAddressing=no\\n'"
            " >/etc/systemd/network/eth0.network; tar -xf /dev/vdb; chmod 755 docker; mv docker /usr/local/bin/"
        )
        self.come_up()
        self.sh("networkctl reload; networkctl reconfigure eth0")
        self.sh("/usr/lib/systemd/systemd-networkd-wait-online --interface=eth0 --timeout=600")

    def reboot(self) -> None:
        """Shuts the host down and boots it again, from its disk."""
        self.go_down()
        self.come_up()

    def go_down(self) -> None:
        """Returns when the host has shut down and its next kernel has begun."""
        self.sh("systemctl --no-block reboot")
        self._said_hello()

    def come_up(self) -> None:
        """Returns when systemd has started all that it starts."""
        state = self.sh("systemctl is-system-running --wait", check=False).strip()
        if state != "running":
            raise RuntimeError(f"{self.name} is {state}: {self.sh('systemctl --failed')}")

    def _said_hello(self) -> None:
        """A host that begins says hello, with a new number."""
        while "hello" not in (line := self._line(SECONDS)):
            pass
        assert line["hello"] != self._boot, "the same boot"
        self._boot = line["hello"]

    # --- what tests ask for

    def sh(self, command: str, *, check: bool = True, seconds: float = SECONDS) -> str:
        """What it prints, errors included."""
        self._port.sendall(json.dumps({"sh": command, "timeout": seconds}).encode() + b"\n")
        answer = self._line(seconds + 60)
        if check and answer["status"] != 0:
            raise RuntimeError(
                f"{self.name}: {command}: status {answer['status']}\n{answer['out']}"
            )
        return str(answer["out"])

    def _line(self, seconds: float) -> dict[str, Any]:
        self._port.settimeout(seconds)
        try:
            while b"\n" not in self._pending:
                chunk = self._port.recv(1 << 16)
                if not chunk:
                    raise RuntimeError(f"{self.name} is gone:\n{self.log()}")
                self._pending += chunk
        except TimeoutError:
            raise RuntimeError(f"{self.name} says nothing:\n{self.log()}") from None
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> "DebianHost":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._port.close()
        self._emulator.kill()
        self._emulator.wait()
