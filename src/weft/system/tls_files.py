"""The three files that the operator names for one end of mutual TLS: a CA, a certificate and its
key."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from weft.errors import InvalidArgument, cause_of


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files."""

    ca: Path
    """The CA that must have signed the other side's certificate."""
    certificate: Path
    key: Path


def load(context: ssl.SSLContext, files: TlsFiles, option: str) -> ssl.SSLContext:
    """Loads the files into the context and gives the context. `option`: the prefix of the
    operator's settings (`<option>cacert`, `…cert`, `…key`). Raises `InvalidArgument`, naming the
    file, if one cannot be read or used."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (files.ca, files.certificate, files.key):
        try:
            path.read_bytes()
        except OSError as error:
            raise InvalidArgument(f"cannot read {path}: {cause_of(error)}") from error
    try:
        context.load_verify_locations(files.ca)
    except ssl.SSLError as error:
        raise InvalidArgument(
            f"cannot use {option}cacert {files.ca}: it holds no certificate in PEM: {reason(error)}"
        ) from error
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidArgument(
            f"cannot use {option}cert {files.certificate} with {option}key {files.key}:"
            f" {reason(error)}"
        ) from error
    return context


def reason(error: Exception) -> str:
    """The error's text without OpenSSL's numbers."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)


def _no_password() -> str:
    """Refuses encrypted keys; without this callback OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted")
