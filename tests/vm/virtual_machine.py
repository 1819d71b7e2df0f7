"""The guest: a machine with a real ESP in its kernel, under QEMU's software emulation, and the one
wire between it and a namespace.

The emulator runs inside a throw-away namespace of this machine and finds its network card's other
end, a TAP device, there: the guest reaches that namespace and nothing else. Requests go over a
virtio port (`guest_agent.py` answers them), the kernel's messages over the serial line into a file.
Every wait has an end; the emulator is killed by its process id.
"""

import base64
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.vm import image
from weft.model import codec
from weft.model.encryption import Protection

BOOT_SECONDS = 120
MEMORY = "1G"
"""Room for the RAM disk twice: as the boot loader left it, and unpacked."""


class Guest:
    def __init__(self, namespace: str, tap: str, scratch: Path) -> None:
        """Starts it; `namespace` is one of `ip netns`, with the device `tap` in it."""
        self._scratch = scratch
        ready = image.ensure()
        disk = scratch / "initrd"
        with disk.open("wb") as out:
            with (ready / "base.cpio").open("rb") as base:
                shutil.copyfileobj(base, out)
            out.write(image.sources())
        self.console = scratch / "console"
        command = ["ip", "netns", "exec", namespace, *self._command(ready / "vmlinuz", disk, tap)]
        with (scratch / "qemu").open("wb") as log:
            self._emulator = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._port: socket.socket | None = None
        self._pending = b""

    def _command(self, kernel: Path, disk: Path, tap: str) -> list[str]:
        return [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", MEMORY,
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", str(kernel), "-initrd", str(disk),
            "-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off",
            "-serial", f"file:{self.console}",
            "-netdev", f"tap,id=wire,ifname={tap},script=no,downscript=no",
            "-device", "virtio-net-pci,netdev=wire,mac=02:42:0a:3b:4a:02,romfile=",
            "-chardev", f"socket,id=port,path={self._scratch}/port,server=on,wait=off",
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=weft",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip

    def boot(self) -> None:
        """Returns when the guest answers."""
        deadline = time.monotonic() + BOOT_SECONDS
        while not self.console.exists() or b"guest: ready" not in self.console.read_bytes():
            if self._emulator.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the guest did not start:\n{self.log()}")
            time.sleep(0.05)
        self._port = socket.socket(socket.AF_UNIX)
        self._port.connect(str(self._scratch / "port"))
        assert self.sh("true") == ""

    def log(self) -> str:
        files = [self._scratch / "qemu", self.console]
        return "\n".join(
            file.read_text(errors="replace")[-4000:] for file in files if file.exists()
        )

    def ask(self, request: dict[str, Any], timeout: float = 60) -> dict[str, Any]:
        """The answer. Raises RuntimeError with the guest's words if something went wrong there."""
        assert self._port is not None
        self._port.settimeout(timeout)
        self._port.sendall(json.dumps(request).encode() + b"\n")
        while b"\n" not in self._pending:
            chunk = self._port.recv(1 << 16)
            if not chunk:
                raise RuntimeError(f"the guest is gone:\n{self.log()}")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def sh(self, command: str, timeout: float = 30, check: bool = True) -> str:
        """What it printed, errors included."""
        answer = self.ask({"sh": command, "timeout": timeout}, timeout + 30)
        if check and answer["status"] != 0:
            raise RuntimeError(f"{command}: status {answer['status']}\n{answer['out']}")
        return str(answer["out"])

    def apply(self, protection: Protection | None) -> None:
        self.ask(
            {
                "apply": None
                if protection is None
                else base64.b64encode(codec.encode(protection)).decode()
            }
        )

    def restart_engine(self) -> None:
        self.ask({"restart": True})

    def counters(self) -> dict[str, int]:
        return dict(self.ask({"counters": True})["counters"])

    def why_not(self) -> str | None:
        found: str | None = self.ask({"why_not": True})["why_not"]
        return found

    def __enter__(self) -> "Guest":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._port is not None:
            self._port.close()
        self._emulator.kill()
        self._emulator.wait()
