"""Logs in to a registry, as `docker login` asks the daemon to: shows it a user and a password, or an
identity token, and says whether it takes them. Nothing is kept: the command keeps what it needs.

    GET /v2/                 200: the registry wants no credentials
    401, challenge Basic     the same again with the password
    401, challenge Bearer    the token server that the challenge names, then the same with its token

The texts of errors are Docker's (moby registry/auth.go, distribution's errcode). Certificates are
those of `/etc/docker/certs.d/<host>[:<port>]`: `*.crt` are authorities beside the host's, `*.cert`
with `*.key` is this host's own certificate.
"""

import asyncio
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, parse_http_list, proxy_bypass

import aiohttp
import msgspec

from weft.errors import InvalidArgument, OperationFailed, Unauthorized, cause_of, clip
from weft.model.registry import USUAL, RegistryAuth, RegistrySettings

CERTIFICATES = Path("/etc/docker/certs.d")
PATIENCE = 15.0
"""Seconds for one answer, as with Docker."""
_MOST = 1 << 20
"""Bytes of an answer that are read."""
_HUB = "registry-1.docker.io"
_HUB_NAMES = ("", "docker.io", "index.docker.io", "registry-1.docker.io")
_CLIENT = "docker"
_NO_MESSAGE = "authentication required"
_UNKNOWN_AUTHORITY = (18, 19, 20, 21)
"""X509_V_ERR numbers of a chain that ends at no known authority."""


class Answer(msgspec.Struct, frozen=True):
    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class TokenAnswer(msgspec.Struct, frozen=True):
    """See distribution's specification of tokens. Either name is used for the same."""

    token: str = ""
    access_token: str = ""
    refresh_token: str = ""


async def log_in(
    server: str, auth: RegistryAuth, settings: RegistrySettings, certificates: Path = CERTIFICATES
) -> str:
    """Returns the identity token that the registry gives in place of the password; empty if it
    gives none. Raises `Unauthorized`, `OperationFailed`, `InvalidArgument`."""
    host = host_in(server)
    insecure = settings.is_insecure(host)
    context = tls_context(certificates / host, insecure)
    failure: OperationFailed | None = None
    for scheme in ("https", "http") if insecure else ("https",):
        try:
            async with asyncio.timeout(PATIENCE):
                return await attempt(f"{scheme}://{host}/v2/", auth, context, insecure)
        except OperationFailed as error:
            failure = failure if scheme == "http" and _answered(failure) else error
        except TimeoutError:
            failure = OperationFailed(
                f'Get "{scheme}://{host}/v2/": no answer within {PATIENCE:g} s'
            )
    assert failure is not None
    raise OperationFailed(printable(auth.hidden_in(str(failure))))


def host_in(server: str) -> str:
    """Host and port of a registry, as users and clients write it: with or without a scheme and a
    path. Raises `InvalidArgument`."""
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    if host in _HUB_NAMES:
        return _HUB
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?", host):
        raise InvalidArgument(f"invalid registry {clip(server)!r}: it must be HOST or HOST:PORT")
    return host


def _answered(failure: OperationFailed | None) -> bool:
    """Whether the registry itself has refused: then plain HTTP has nothing to add."""
    return failure is not None and str(failure).startswith("login attempt")


async def attempt(url: str, auth: RegistryAuth, context: ssl.SSLContext, insecure: bool) -> str:
    """As `log_in`, at one address of the registry."""
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        first = await _ask(session, "GET", url)
        identity, header = "", ""
        if first.status == 401:
            kind, values = challenge(first.headers.get("WWW-Authenticate", ""))
            if kind == "bearer":
                realm = values.get("realm", "")
                if not realm.startswith("https://") and not insecure:
                    raise OperationFailed(
                        f'Get "{url}": the token server {clip(realm)!r} is not HTTPS'
                    )
                given = await _token(session, url, values, auth)
                identity = given.refresh_token or auth.identity_token
                header = f"Bearer {given.token or given.access_token}"
            else:
                header = f"Basic {auth.basic}"
            first = await _ask(session, "GET", url, {"Authorization": header})
        if first.status != 200:
            raise OperationFailed(
                f"login attempt to {url} failed with status: {first.status} {first.reason}"
            )
        return identity


async def _token(
    session: aiohttp.ClientSession, url: str, values: Mapping[str, str], auth: RegistryAuth
) -> TokenAnswer:
    realm = values.get("realm", "")
    asked = {"service": values.get("service", ""), "client_id": _CLIENT}
    if auth.identity_token:
        form = {**asked, "grant_type": "refresh_token", "refresh_token": auth.identity_token}
        answer = await _ask(session, "POST", realm, form=form)
    else:
        query = {**asked, "account": auth.username, "offline_token": "true"}
        header = {"Authorization": f"Basic {auth.basic}"}
        answer = await _ask(session, "GET", realm, header, query=query)
    if answer.status == 401:
        words = clip(printable(auth.hidden_in(message_in(answer.body))))
        raise Unauthorized(f'Get "{url}": unauthorized: {words}')
    if answer.status != 200:
        raise OperationFailed(
            f'Get "{url}": the token server {clip(realm)} answers {answer.status} {answer.reason}'
        )
    try:
        return msgspec.json.decode(answer.body, type=TokenAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperationFailed(f'Get "{url}": unable to decode token response: {error}') from error


async def _ask(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
) -> Answer:
    """Follows no redirection: it could lead the password elsewhere."""
    try:
        async with session.request(
            method,
            url,
            headers=headers,
            params=query,
            data=form,
            allow_redirects=False,
            proxy=proxy_for(url),
        ) as answer:
            body = await answer.content.read(_MOST)
            return Answer(answer.status, answer.reason or "", answer.headers, body)
    except aiohttp.ClientConnectorCertificateError as error:
        raise OperationFailed(
            f'{method.capitalize()} "{url}": tls: failed to verify certificate: x509:'
            f" {_certificate_words(error)}"
        ) from error
    except aiohttp.ClientConnectorError as error:
        raise OperationFailed(f'{method.capitalize()} "{url}": {_words(error)}') from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise OperationFailed(f'{method.capitalize()} "{url}": {cause_of(error)}') from error


def proxy_for(url: str) -> str | None:
    """As the environment says, and never for a registry on this host, as with skopeo and Docker.
    aiohttp's own way would also read root's ~/.netrc. Raises `ValueError`."""
    parts = urlsplit(url)
    if USUAL.is_insecure(parts.netloc) or proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


def _words(error: aiohttp.ClientConnectorError) -> str:
    """asyncio's own words for a refused connection name a tuple; TLS has numbers of its own."""
    cause = error.os_error
    is_plain = (cause.errno or 0) > 0 and not isinstance(cause, ssl.SSLError)
    return os.strerror(cause.errno or 0) if is_plain else cause_of(cause)


def _certificate_words(error: aiohttp.ClientConnectorCertificateError) -> str:
    cause = error.certificate_error
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return cause_of(cause)
    if cause.verify_code in _UNKNOWN_AUTHORITY:
        return "certificate signed by unknown authority"
    return cause.verify_message


def challenge(header: str) -> tuple[str, dict[str, str]]:
    """The scheme in lower case, and the values, of a WWW-Authenticate header (RFC 7235)."""
    kind, _, rest = header.strip().partition(" ")
    pairs = (item.partition("=") for item in parse_http_list(rest))
    return kind.lower(), {name.lower(): value.strip('"') for name, _, value in pairs}


class _Message(msgspec.Struct, frozen=True):
    message: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    details: str = ""
    errors: tuple[_Message, ...] = ()


def message_in(body: bytes) -> str:
    """The words of a token server's refusal, in one of the two forms that there are."""
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _NO_MESSAGE
    texts: Iterator[str] = (error.message for error in refusal.errors if error.message)
    return refusal.details or next(texts, _NO_MESSAGE)


def printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def tls_context(directory: Path, insecure: bool) -> ssl.SSLContext:
    """`directory`: the certificates for this registry, if any. Raises `OperationFailed`."""
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        for path in sorted(directory.glob("*.crt")):
            context.load_verify_locations(path)
        for path in sorted(directory.glob("*.cert")):
            context.load_cert_chain(path, path.with_suffix(".key"))
    except (OSError, ssl.SSLError) as error:
        raise OperationFailed(f"cannot use the certificates in {directory}: {error}") from error
    return context
