"""Images that come and go through the docker command and docker-py, with the real store."""

import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.conformance.client import Daemon, eventually


class ImageDaemon(Daemon):
    real_images = True


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Daemon]:
    daemon = ImageDaemon(tmp_path / "docker.sock")
    yield daemon
    daemon.close()


@pytest.fixture
def client(images: Daemon) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=f"unix://{images.path}")
    yield client
    client.close()


def root_of(**files: bytes) -> bytes:
    """A tar of files that belong to this user, so that no other one is needed to unpack it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.gid = len(content), os.getuid(), os.getgid()
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


CHANGES = (
    'ENTRYPOINT ["/bin/tool"]', "CMD --serve now", "ENV A=b C='d e'", "EXPOSE 80 53/udp",
    "LABEL made.by=hand", "USER 7:8", "WORKDIR /srv", "VOLUME /data /more", "STOPSIGNAL SIGINT",
    "HEALTHCHECK --interval=3s --retries=2 CMD /bin/check it",
)  # fmt: skip


def imported(daemon: Daemon, name: str = "made:1", content: bytes = b"12345") -> str:
    changes = [word for change in CHANGES for word in ("--change", change)]
    said = daemon.ok(
        "import", *changes, "--message", "from afar", "-", name, stdin=root_of(tool=content)
    )
    return said.strip()


def test_an_image_is_imported_with_changes(images: Daemon, tmp_path: Path) -> None:
    id = imported(images)
    found = json.loads(images.ok("image", "inspect", "made:1"))[0]
    assert (found["Id"], found["Size"], found["RepoTags"]) == (id, 5, ["made:1"])
    config = found["Config"]
    assert config["Entrypoint"] == ["/bin/tool"]
    assert config["Cmd"] == ["/bin/sh", "-c", "--serve now"]
    assert config["Env"] == ["A=b", "C=d e"]
    assert set(config["ExposedPorts"]) == {"80/tcp", "53/udp"}
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("7:8", "/srv", "SIGINT")
    assert (config["Labels"], set(config["Volumes"])) == ({"made.by": "hand"}, {"/data", "/more"})
    assert config["Healthcheck"] == {
        "Test": ["CMD-SHELL", "/bin/check it"], "Interval": 3 * 10**9, "Retries": 2,
    }  # fmt: skip
    line = images.ok(
        "history", "--no-trunc", "--format", "{{.ID}} {{.Size}} {{.Comment}}", "made:1"
    )
    assert line.strip() == f"{id} 5B from afar"
    (tmp_path / "root.tar").write_bytes(root_of(other=b"1"))
    images.ok("import", str(tmp_path / "root.tar"), "made:2")
    assert images.ok("images", "-q", "--no-trunc", "made:2").strip() != id
    soon = str(int(time.time()) + 1)
    events = images.ok("events", "--since", "1", "--until", soon, "--format", "{{.Action}}")
    assert events.split() == ["import", "import"]


def test_what_cannot_be_imported(images: Daemon) -> None:
    for change, words in (
        ("ONBUILD RUN x", "ONBUILD is not supported"),
        ("RUN x", "RUN is not a valid change command"),
        ("EXPOSE x", "'x' is no port"),
        ("ENV A", "must have two arguments"),
        ("USER", "it needs an argument"),
        ("HEALTHCHECK --often CMD x", "there is no option --often"),
        ("CMD 'x", "made:1"),
    ):
        done = images.run("import", "--change", change, "-", "made:1", stdin=root_of(a=b"1"))
        assert (done.returncode == 0) == (words == "made:1"), done
        assert words == "made:1" or words in done.stderr.decode(), done.stderr
    assert "it ends in the middle of a header" in images.run("load", stdin=b"abc").stderr.decode()
    assert "not a tar" in images.run("import", "-", stdin=b"x" * 9000).stderr.decode()
    assert "fetch the file" in images.refused("import", "http://192.0.2.1/x.tar")


def test_saved_images_are_loaded_with_their_ids(
    images: Daemon, client: docker.DockerClient, tmp_path: Path
) -> None:
    ids = [imported(images), imported(images, "made:2", b"other")]
    images.ok("tag", "made:1", "registry.test/team/made:3")
    file = tmp_path / "saved.tar"
    images.ok("save", "-o", str(file), "made", "registry.test/team/made:3")
    by_id = images.run("save", ids[0]).stdout
    images.ok("image", "rm", "-f", *ids)
    assert images.ok("images", "-q") == ""
    said = images.ok("load", "-i", str(file))
    loaded = [f"Loaded image: {tag}" for tag in ("made:1", "made:2", "registry.test/team/made:3")]
    assert sorted(said.splitlines()) == loaded
    assert sorted(images.ok("images", "-q", "--no-trunc").split()) == sorted([*ids, ids[0]])
    images.ok("image", "rm", "-f", ids[0])
    assert "Loaded image ID: " + ids[0] in images.ok("load", stdin=by_id)
    # docker-py reads what the store sends, and sends it again.
    archive = b"".join(client.images.get(ids[1]).save(named=True))
    images.ok("image", "rm", "-f", ids[1])
    assert [image.id for image in client.images.load(archive)] == [ids[1]]
    assert [step["Comment"] for step in client.images.get(ids[1]).history()] == ["from afar"]


def test_what_cannot_be_saved_or_pushed(images: Daemon) -> None:
    imported(images)
    assert "No such image: absent:latest" in images.refused("save", "made:1", "absent")
    assert "No such image: absent:latest" in images.refused("history", "absent")
    done = images.run("push", "registry.test/absent:1")
    assert "The push refers to repository [registry.test/absent]" in done.stdout.decode()
    assert "An image does not exist locally with the tag" in done.stderr.decode()
    assert "does not provide the specified platform" in images.refused(
        "save", "--platform", "linux/s390x", "made:1"
    )
    for command in (("pull", "--platform", "linux/s390x", "x"), ("pull", "-a", "made")):
        assert "not supported by Weft" in images.refused(*command)


def test_a_registry_that_does_not_answer_ends_the_push(images: Daemon) -> None:
    imported(images)
    images.ok("tag", "made:1", "127.0.0.1:9/made:1")
    done = images.run("push", "127.0.0.1:9/made:1")
    assert "Preparing" in done.stdout.decode()
    said = done.stderr.decode()
    assert said.startswith("cannot push 127.0.0.1:9/made:1: "), said
    assert "connection refused" in said


def test_a_commit_pauses_the_container(images: Daemon) -> None:
    """And lets it go on afterwards, also if there is no image; unless it was paused before, or the
    user wants it to go on."""
    imported(images)
    words = ("--no-healthcheck", "--entrypoint", "sh", "made:1", "-c", "exec sleep 3600")
    images.ok("run", "-d", "--name", "web", *words)
    id = images.ok("ps", "-q", "--no-trunc").strip()

    def actions(since: str) -> list[str]:
        words = ("--since", since, "--until", repr(time.time()), "--format", "{{.Action}}")
        return images.ok("events", *words, "--filter", "type=container").split()

    def told(*options: str, is_refused: bool = False) -> list[str]:
        since = repr(time.time())
        (images.refused if is_refused else images.ok)("commit", *options, "web", "made:2")
        return actions(since)

    paused = ("inspect", "--format", "{{.State.Paused}}", "web")
    assert told() == ["pause", "commit", "unpause"]
    assert told("--pause=false") == ["commit"]
    (images.node.files.root(id) / ".wh.x").write_bytes(b"")
    assert told(is_refused=True) == ["pause", "unpause"]
    assert images.ok(*paused) == "false\n"
    (images.node.files.root(id) / ".wh.x").unlink()
    images.ok("pause", "web")
    assert told() == ["commit"]
    assert images.ok(*paused) == "true\n"
    since = repr(time.time())
    images.ok("kill", "web")
    eventually(lambda: "die" in actions(since))
    assert told() == ["commit"]


def test_a_container_is_committed(images: Daemon) -> None:
    imported(images)
    images.ok("swarm", "init")
    images.call(images.node.until_ready())
    made = ("service", "create", "-d", "--no-resolve-image", "--name", "web", "--env", "X=1")
    images.ok(*made, "--no-healthcheck", "--entrypoint", "sh", "made:1", "-c", "exec sleep 3600")
    images.settled("web")
    id = images.ok("ps", "-q", "--no-trunc").strip()
    root = images.node.files.root(id)
    (root / "new").write_bytes(b"changed")
    change = ("--change", "LABEL committed=yes", "--message", "as it was", "--author", "me")
    image = images.ok("commit", *change, id, "made:2").strip()
    found = json.loads(images.ok("image", "inspect", "made:2"))[0]
    base = json.loads(images.ok("image", "inspect", "made:1"))[0]
    assert (found["Id"], found["Author"], found["Size"]) == (image, "me", base["Size"] + 7)
    config = found["Config"]
    assert config["Entrypoint"] == ["sh"]
    assert config["Cmd"] == ["-c", "exec sleep 3600"]
    assert {"X=1", "A=b"} <= set(config["Env"])
    assert (config["User"], config["StopSignal"]) == ("7:8", "SIGINT")
    assert config["Labels"]["committed"] == "yes"
    assert config["Labels"]["made.by"] == "hand"
    assert found["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    lines = images.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "made:2")
    assert lines.splitlines() == ["sh -c exec sleep 3600|as it was", "|from afar"]
    archive = io.BytesIO(images.run("save", "made:2").stdout)
    with tarfile.open(fileobj=archive) as saved:
        layer = found["RootFS"]["Layers"][-1].replace("sha256:", "blobs/sha256/")
        content = saved.extractfile(layer)
        assert content is not None
        with tarfile.open(fileobj=io.BytesIO(content.read())) as inner:
            assert inner.getnames() == ["new"]
    soon = str(int(time.time()) + 1)
    events = images.ok("events", "--since", "1", "--until", soon, "--filter", "event=commit")
    assert f"imageID={image}" in events
    assert "No such container: absent" in images.refused("commit", "absent")
    assert "RUN is not a valid" in images.refused("commit", "--change", "RUN x", id)
