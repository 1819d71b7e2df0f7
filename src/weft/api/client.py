"""A client of the Docker Engine API over a daemon's UNIX socket, with the requests that the lab,
the command line and the benchmarks need."""

import http.client
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weft.errors import OperationFailed, Unavailable

VERSION = "v1.41"
"""The oldest version that Weft serves, so that the lab does not have to follow newer ones."""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path | str, seconds: float = 30) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


class Api:
    """Requests to one daemon. Every method raises `Unavailable` if the daemon does not answer, and
    `OperationFailed` with the answer's message."""

    def __init__(self, path: Path, seconds: float = 30) -> None:
        self._path = path
        self._seconds = seconds

    def get(self, path: str) -> Any:
        return self._request("GET", path)

    def post(self, path: str, body: object = None) -> Any:
        return self._request(
            "POST", path, json.dumps(body).encode() if body is not None else b"", "application/json"
        )

    def stream(self, path: str, body: object) -> http.client.HTTPResponse:
        """An answer that comes piece by piece, without limit on time; to be closed."""
        connection = UnixConnection(self._path, self._seconds)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"/{VERSION}{path}", json.dumps(body).encode(), headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise OperationFailed(f"POST {path}: {_message(response.read())}")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unavailable(f"cannot reach the daemon at {self._path}: {error}") from error
        except OperationFailed:
            connection.close()
            raise
        if connection.sock is not None:
            connection.sock.settimeout(None)
        return response

    def has(self, path: str) -> bool:
        """Whether the object exists; False if the API cannot tell yet."""
        try:
            self.get(path)
        except OperationFailed:
            return False
        return True

    def load_image(self, archive: Path) -> None:
        """`docker load`. Errors come in the answer's body, after status 200."""
        with archive.open("rb") as file:
            answer = self._send("POST", "/images/load?quiet=1", file, {"Content-Type": "application/x-tar",
                                "Content-Length": str(archive.stat().st_size)})  # fmt: skip
        for line in answer.splitlines():
            message = json.loads(line) if line.strip() else {}
            if "error" in message:
                raise OperationFailed(f"cannot load image {archive}: {message['error']}")

    def _request(self, method: str, path: str, body: bytes = b"", kind: str = "") -> Any:
        answer = self._send(method, path, body, {"Content-Type": kind} if kind else {})
        return json.loads(answer) if answer.strip() else None

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> bytes:
        connection = UnixConnection(self._path, self._seconds)
        try:
            connection.request(method, f"/{VERSION}{path}", body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"cannot reach the daemon at {self._path}: {error}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise OperationFailed(f"{method} {path}: {_message(answer)}")
        return answer


def wait_until(
    condition: Callable[[], bool], what: str, seconds: float, interval: float = 0.03
) -> None:
    """Tests the condition again and again. Raises `Unavailable` that names the condition and the
    last cause."""
    deadline = time.monotonic() + seconds
    reason: Exception | None = None
    while True:
        try:
            if condition():
                return
        except Unavailable as error:
            reason = error
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{what} did not happen within {seconds:.0f} s" + (f": {reason}" if reason else "")
            )
        time.sleep(interval)


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip()
