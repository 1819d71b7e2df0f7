"""The network between hosts in emulation, and a client on it: a bridge in a namespace of this machine, with a TAP device for
each host's card. There is no way from it to anywhere else. What hosts send is seen here, on their own cables."""

import os
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from weft.linux import netns

CLIENT = "10.59.77.1"
VXLAN = 4789
_BUFFER = 64 << 20
_FORCE, _EVERY = 33, 3
"""SO_RCVBUFFORCE and ETH_P_ALL, which Python does not name."""


class Segment:
    def __init__(self) -> None:
        self.name = f"weftvm-lan-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.sh(f"ip link set lo up; ip link add lan type bridge; ip address add {CLIENT}/24 dev lan; ip link set lan up")  # fmt: skip

    def plug(self, tap: str) -> None:
        """Makes the cable of one host."""
        self.sh(f"ip tuntap add {tap} mode tap && ip link set {tap} master lan up")

    def sh(self, command: str, seconds: float = 600) -> str:
        """Runs as the client; gives what it prints."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, "sh", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=seconds,
        ).stdout  # fmt: skip

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=True)


def ask(address: str, port: int = 8080) -> str:
    """The command that asks a host for the page once and prints the status, or 000."""
    return f"curl -s -o /dev/null --max-time 30 -w '%{{http_code}}\\n' http://{address}:{port}"


class Asking:
    """The client asks all hosts in turn all the while. A host that is known to be down can be left out."""

    def __init__(self, segment: Segment, scratch: Path, addresses: list[str]) -> None:
        self._enough, self._asked = scratch / "enough", scratch / "asked"
        self._enough.unlink(missing_ok=True)
        turns = "; ".join(f'echo "{address} $({ask(address)})"' for address in addresses)
        command = f"while [ ! -e {self._enough} ]; do {turns}; sleep 0.2; done >{self._asked}"
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", segment.name, "sh", "-c", command], stdin=subprocess.DEVNULL
        )

    def end(self) -> list[tuple[str, str]]:
        """Each answer: the host that was asked, and the status."""
        self._enough.touch()
        self._process.wait(120)
        lines = self._asked.read_text().splitlines()
        return [(address, status) for address, status in map(str.split, lines)]


class Seen(NamedTuple):
    """What one host has sent."""

    esp: int
    clear: Counter[int]
    """VXLAN datagrams by their VNI."""
    largest: int
    """Bytes of the largest ESP packet, its IP header included."""
    fragments: int


class Cable:
    """All that one host sends, while it is open."""

    def __init__(self, segment: Segment, tap: str, address: str) -> None:
        self._segment, self._tap, self._source = segment, tap, socket.inet_aton(address)

    def __enter__(self) -> "Cable":
        def opened() -> socket.socket:
            found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY))
            found.setsockopt(socket.SOL_SOCKET, _FORCE, _BUFFER)
            found.bind((self._tap, 0))
            found.setblocking(False)
            return found

        self._socket = netns.run_in(Path("/run/netns", self._segment.name), opened)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def seen(self) -> Seen:
        """What was sent since the last call."""
        esp = largest = fragments = 0
        clear: Counter[int] = Counter()
        while True:
            try:
                frame = self._socket.recv(1 << 16)
            except BlockingIOError:
                return Seen(esp, clear, largest, fragments)
            if frame[12:14] != b"\x08\x00" or frame[26:30] != self._source:
                continue
            fragments += bool(int.from_bytes(frame[20:22], "big") & 0x3FFF)
            if frame[23] == socket.IPPROTO_ESP:
                esp += 1
                largest = max(largest, int.from_bytes(frame[16:18], "big"))
            elif frame[23] == socket.IPPROTO_UDP and frame[36:38] == VXLAN.to_bytes(2, "big"):
                clear[int.from_bytes(frame[46:49], "big")] += 1
