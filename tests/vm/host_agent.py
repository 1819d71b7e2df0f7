"""The program in a Debian host: runs what the tests say. It speaks over a virtio port, one line of JSON each:

    {"hello": id of the boot}                   first, when it has started
    {"sh": command, "timeout": seconds}         -> {"status": number, "out": what it printed, errors included}

Runs with the host's own Python and nothing else, outside of all that is tested.
"""

import json
import os
import subprocess
import time
from pathlib import Path

PORT = Path("/sys/class/virtio-ports")
ENVIRONMENT = {
    "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}  # fmt: skip


def run(command: str, timeout: float) -> dict[str, object]:
    try:
        done = subprocess.run(
            command,
            shell=True,
            env=ENVIRONMENT,
            cwd="/root",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as expired:
        return {"status": 124, "out": (expired.output or b"").decode(errors="replace")}
    return {"status": done.returncode, "out": done.stdout.decode(errors="replace")}


def open_port() -> int:
    # The driver makes it some time after it was loaded.
    while True:
        for entry in PORT.glob("vport*"):
            device = Path("/dev", entry.name)
            if device.exists():
                return os.open(device, os.O_RDWR)
        time.sleep(0.05)


def main() -> None:
    port = open_port()

    def say(answer: dict[str, object]) -> None:
        data = json.dumps(answer).encode() + b"\n"
        while data:
            data = data[os.write(port, data) :]

    say({"hello": Path("/proc/sys/kernel/random/boot_id").read_text().strip()})
    pending = b""
    while True:
        while b"\n" not in pending:
            chunk = os.read(port, 1 << 16)
            if not chunk:
                time.sleep(0.05)  # nobody is at the other end
            pending += chunk
        line, _, pending = pending.partition(b"\n")
        request = json.loads(line)
        say(run(request["sh"], request["timeout"]))


main()
