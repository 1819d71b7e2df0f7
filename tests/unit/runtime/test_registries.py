"""How this host talks to registries: logins against a registry and a token server that run here, and
what skopeo is told."""

import asyncio
import base64
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from weft.errors import InvalidArgument, NotFound, OperationFailed, Unauthorized
from weft.model.registry import USUAL, RegistryAuth, RegistrySettings, host_of, registry_of
from weft.runtime.registry_login import challenge, host_in, log_in, message_in
from weft.runtime.skopeo import auth_file, distribution_of, registries_file, translate_error

RIGHT = RegistryAuth(username="me", password="p4ss:marker")
WRONG = RegistryAuth(username="me", password="n0t-marker")
Handler = Callable[[web.Request], Coroutine[Any, Any, web.Response]]


async def answers(handler: Handler, auth: RegistryAuth) -> str | Exception:
    """What a login at a registry on loopback gives."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        return await log_in(f"127.0.0.1:{port}", auth, USUAL)
    except Exception as error:
        return type(error)(str(error).replace(str(port), "PORT"))
    finally:
        await runner.cleanup()


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
    """The proxy refuses connections."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    refused = 'Get "http://127.0.0.1:PORT/v2/": Connection refused'
    assert str(asyncio.run(answers(basic, RIGHT))) == refused
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert asyncio.run(answers(basic, RIGHT)) == ""


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
