"""How this host talks to registries: logins against a registry and a token server that run here, and
what skopeo is told."""

import asyncio
import base64
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from weft.errors import InvalidArgument, NotFound, OperationFailed, Unauthorized
from weft.model.registry import USUAL, RegistryAuth, RegistrySettings, host_of, registry_of
from weft.runtime.registry_login import (
    attempt,
    challenge,
    host_in,
    log_in,
    message_in,
    proxy_for,
    tls_context,
)
from weft.runtime.skopeo import auth_file, distribution_of, registries_file, translate_error

RIGHT = RegistryAuth(username="me", password="p4ss:marker")
WRONG = RegistryAuth(username="me", password="n0t-marker")
Handler = Callable[[web.Request], Coroutine[Any, Any, web.Response]]


@asynccontextmanager
async def registry(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A registry on loopback; its port."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def answers(handler: Handler, auth: RegistryAuth) -> str | Exception:
    """What a login at a registry on loopback gives."""
    async with registry(handler) as port:
        try:
            return await log_in(f"127.0.0.1:{port}", auth, USUAL)
        except Exception as error:
            return type(error)(str(error).replace(str(port), "PORT"))


async def basic(request: web.Request) -> web.Response:
    if request.headers.get("Authorization") == f"Basic {RIGHT.basic}":
        return web.Response()
    return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})


async def token(request: web.Request) -> web.Response:
    if request.path == "/token":
        if request.method == "POST":
            form = await request.post()
            good = form["refresh_token"] == "id-token" and form["grant_type"] == "refresh_token"
        else:
            good = request.headers.get("Authorization") == f"Basic {RIGHT.basic}"
            assert request.query["account"] == "me"
        assert good or request.method == "GET"
        if not good:
            sent = request.headers["Authorization"]
            return web.json_response({"details": f"incorrect password {sent}"}, status=401)
        return web.json_response({"token": "t0ken", "refresh_token": "id-token"})
    if request.headers.get("Authorization") == "Bearer t0ken":
        return web.Response()
    realm = f'Bearer realm="http://{request.host}/token",service="reg"'
    return web.Response(status=401, headers={"WWW-Authenticate": realm})


def test_a_registry_with_basic_authentication() -> None:
    assert asyncio.run(answers(basic, RIGHT)) == ""
    refused = asyncio.run(answers(basic, WRONG))
    assert isinstance(refused, OperationFailed)
    assert str(refused) == (
        "login attempt to http://127.0.0.1:PORT/v2/ failed with status: 401 Unauthorized"
    )


def test_a_registry_with_a_token_server() -> None:
    assert asyncio.run(answers(token, RIGHT)) == "id-token"
    assert asyncio.run(answers(token, RegistryAuth(identity_token="id-token"))) == "id-token"
    refused = asyncio.run(answers(token, WRONG))
    assert isinstance(refused, Unauthorized)
    assert str(refused) == (
        'Get "http://127.0.0.1:PORT/v2/": unauthorized: incorrect password Basic (hidden)'
    )


def test_a_registry_without_passwords_takes_every_one() -> None:
    async def open_to_all(request: web.Request) -> web.Response:
        return web.Response()

    assert asyncio.run(answers(open_to_all, WRONG)) == ""


def test_a_password_is_not_taken_elsewhere() -> None:
    async def redirects(request: web.Request) -> web.Response:
        assert request.path == "/v2/", "the redirection was followed"
        return web.Response(status=307, headers={"Location": f"http://{request.host}/other"})

    refused = asyncio.run(answers(redirects, RIGHT))
    assert str(refused).endswith("failed with status: 307 Temporary Redirect")


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("", "registry-1.docker.io"),
        ("https://index.docker.io/v1/", "registry-1.docker.io"),
        ("reg.test:5000", "reg.test:5000"),
        ("https://reg.test/v2/", "reg.test"),
        ("[::1]:5000", "[::1]:5000"),
    ],
)
def test_registries_as_clients_write_them(server: str, host: str) -> None:
    assert host_in(server) == host


@pytest.mark.parametrize("server", ["me:secret@reg.test", "reg test", "reg.test?a", "a:b:c"])
def test_what_names_no_registry(server: str) -> None:
    with pytest.raises(InvalidArgument):
        host_in(server)


def test_challenges_and_refusals() -> None:
    assert challenge('Bearer realm="https://a/t",service="s"') == (
        "bearer",
        {"realm": "https://a/t", "service": "s"},
    )
    assert challenge("") == ("", {})
    assert message_in(b'{"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}') == "no"
    assert message_in(b"<html>") == "authentication required"


def test_which_registries_need_no_certificate() -> None:
    settings = RegistrySettings(insecure=("reg.test:5000", "192.0.2.0/24"))
    for registry in ("localhost", "127.9.9.9:1", "[::1]:5000", "reg.test:5000", "192.0.2.7:5000"):
        assert settings.is_insecure(registry), registry
    for registry in ("reg.test", "docker.io", "192.0.3.1", "127.0.0.1.test"):
        assert not settings.is_insecure(registry), registry
    assert [host_of(text) for text in ("a:1", "a", "[::1]:1", "[::1]")] == ["a", "a", "::1", "::1"]
    assert registry_of("team/app:1") == "docker.io"
    assert registry_of("reg.test:5000/app@sha256:" + "0" * 64) == "reg.test:5000"


def test_what_skopeo_is_told() -> None:
    assert auth_file("reg.test", None) == b"{}"
    told = msgspec.json.decode(auth_file("reg.test:5000", RIGHT))
    assert told == {"auths": {"reg.test:5000": {"auth": RIGHT.basic}}}
    assert base64.b64decode(RIGHT.basic) == b"me:p4ss:marker"
    mirrors = registries_file(("https://m.test/hub/", "http://m2.test:5000")).decode()
    assert 'location = "m.test/hub"\ninsecure = false' in mirrors
    assert 'location = "m2.test:5000"\ninsecure = true' in mirrors


def test_credentials_do_not_show_themselves() -> None:
    assert "marker" not in repr(RIGHT)
    assert RIGHT.hidden_in(f"{RIGHT.password} {RIGHT.basic}") == "(hidden) (hidden)"
    assert RegistryAuth().hidden_in("text") == "text"


def test_an_error_shows_nothing_of_the_password() -> None:
    said = f'level=fatal msg="got {RIGHT.basic} and {RIGHT.password}"'
    assert (
        str(translate_error(said, "a", "1", RIGHT)) == "cannot pull a:1: got (hidden) and (hidden)"
    )
    cut = translate_error("x" * 495 + RIGHT.password, "a", "1", RIGHT)
    assert RIGHT.password[:3] not in str(cut)
    short = RegistryAuth(username="me", password="n")
    assert isinstance(translate_error("manifest unknown", "a", "1", short), NotFound)


def test_words_of_a_registry_are_shown_in_part_and_printable() -> None:
    async def hostile(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"details": "a\x1b[2J" + "x" * 300 + "b"}, status=401)
        realm = f'Bearer realm="http://{request.host}/token"'
        return web.Response(status=401, headers={"WWW-Authenticate": realm})

    refused = asyncio.run(answers(hostile, RIGHT))
    assert isinstance(refused, Unauthorized)
    assert "unauthorized: a?[2Jxxx" in str(refused)
    assert str(refused).endswith("(306 characters)")


def test_the_environment_says_which_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", "reg.test,.lan")
    for url in ("https://reg.test/v2/", "https://a.lan:5000/", "https://127.0.0.1:5000/v2/"):
        assert proxy_for(url) is None, url
    assert proxy_for("https://other.test:5000/v2/") == "http://proxy.test:3128"


class Checked(RegistrySettings, frozen=True):
    """Settings of a host that checks the certificates of registries on loopback, too."""

    def is_insecure(self, registry: str) -> bool:
        return False


def make_certificates(directory: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=directory)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    (directory / "server.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    (directory / "client.ext").write_text("extendedKeyUsage=clientAuth\n")
    for name in ("server", "client"):
        openssl(
            "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"
        )
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip


def test_certificates_of_a_registry_of_ones_own(tmp_path: Path) -> None:
    """The registry wants a certificate of this host, too."""
    make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED

    async def main() -> list[str]:
        async with registry(basic, context) as port:
            mine = tmp_path / "certs.d" / f"127.0.0.1:{port}"
            mine.mkdir(parents=True)
            said = []
            for files in ((), (("ca.pem", "ca.crt"),), (("client.pem", "client.cert"),)):
                for source, target in files:
                    (mine / target).write_bytes((tmp_path / source).read_bytes())
                    (mine / "client.key").write_bytes((tmp_path / "client.key").read_bytes())
                try:
                    server = f"127.0.0.1:{port}"
                    said.append(await log_in(server, RIGHT, Checked(), tmp_path / "certs.d"))
                except OperationFailed as error:
                    said.append(str(error).replace(str(port), "PORT"))
            return said

    unknown, without, right = asyncio.run(main())
    assert unknown == (
        'Get "https://127.0.0.1:PORT/v2/": tls: failed to verify certificate: x509: certificate'
        " signed by unknown authority"
    )
    assert without.startswith('Get "https://127.0.0.1:PORT/v2/": ')
    assert right == ""


def test_a_password_goes_to_a_token_server_with_https_alone() -> None:
    """A registry whose certificate is checked, and that names a token server without one."""

    async def main() -> None:
        asked: list[str] = []

        async def plain(request: web.Request) -> web.Response:
            asked.append(request.path)
            return await token(request)

        async with registry(plain) as port:
            context = tls_context(Path("/nonexistent"), insecure=False)
            with pytest.raises(OperationFailed, match="the token server .* is not HTTPS"):
                await attempt(f"http://127.0.0.1:{port}/v2/", RIGHT, context, insecure=False)
        assert asked == ["/v2/"]

    asyncio.run(main())


def test_the_platforms_of_an_image_and_of_a_list() -> None:
    config = b'{"architecture": "arm64", "os": "linux", "variant": "v8"}'
    one = distribution_of("a", b'{"mediaType": "m", "config": {}}', config)
    assert (one.media_type, one.platforms) == ("m", (("arm64", "linux", "v8"),))
    many = b'{"manifests": [{"platform": {"architecture": "amd64", "os": "linux"}}, {"digest": 1}]}'
    found = distribution_of("a", many, b"")
    assert found.media_type == "application/vnd.oci.image.index.v1+json"
    assert found.platforms == (("amd64", "linux", ""),)
    with pytest.raises(OperationFailed, match="cannot read the manifest of a"):
        distribution_of("a", b"<html>", b"")


def test_a_damaged_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "reg.test").mkdir()
    (tmp_path / "reg.test" / "ca.crt").write_text("no certificate")
    with pytest.raises(OperationFailed, match="cannot use the certificates in .*reg.test"):
        asyncio.run(log_in("reg.test", RIGHT, USUAL, tmp_path))
