"""Requests about secrets and configs, with Docker Swarm's texts."""

import pytest

from weft.control.requests import secrets
from weft.errors import Conflict, InvalidArgument, NotFound, OutOfSequence, Unsupported
from weft.model.ids import ConfigId, SecretId, ServiceId
from weft.model.secret import DataKind, DataReference, DataSpec, Sealed
from weft.model.service import ContainerSpec, Service, ServiceSpec, TaskSpec
from weft.model.state import Change, ClusterState, Put

SEALED = Sealed("key", b"nonce", b"text")
KINDS: tuple[DataKind, ...] = ("secret", "config")
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(state: ClusterState, kind: DataKind, id: str, name: str) -> None:
    spec = DataSpec(name=name)
    state.apply(
        secrets.secret_creation(state, SecretId(id), spec, SEALED)
        if kind == "secret"
        else secrets.config_creation(state, ConfigId(id), spec, b"data"),
        1,
    )


def use(state: ClusterState, kind: DataKind, id: str, name: str, *services: str) -> None:
    references = (DataReference(id=id, name=name, target="t"),)
    for service in services:
        container = (
            ContainerSpec(image="i", secrets=references)
            if kind == "secret"
            else ContainerSpec(image="i", configs=references)
        )
        spec = ServiceSpec(name=service, task=TaskSpec(container=container))
        old = state.services.get(ServiceId(service))
        put: Change = (
            Put(Service(id=ServiceId(service), spec=spec))
            if old is None
            else Put(Service(id=old.id, spec=spec, meta=old.meta))
        )
        state.apply([put], 1)


@each_kind
@pytest.mark.parametrize("name", ["a", "A9", "a.b_c-d", "x" * 64, "0"])
def test_good_names(kind: DataKind, name: str) -> None:
    secrets.validate(kind, DataSpec(name=name), b"x")


@each_kind
@pytest.mark.parametrize("name", ["-a", "a-", "a b", "a/b", "ä", "x" * 65, "a\n", ".", "a."])
def test_bad_names_are_refused(kind: DataKind, name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid name, only 64 \[a-zA-Z0-9-_.\] charac"):
        secrets.validate(kind, DataSpec(name=name), b"x")


@each_kind
def test_an_empty_name_is_refused(kind: DataKind) -> None:
    with pytest.raises(InvalidArgument, match="name must be provided"):
        secrets.validate(kind, DataSpec(name=""), b"x")


@pytest.mark.parametrize(("kind", "limit"), [("secret", 500 * 1024), ("config", 1000 * 1024)])
def test_sizes(kind: DataKind, limit: int) -> None:
    secrets.validate(kind, DataSpec(name="a"), b"x" * (limit - 1))
    for data in (b"", b"x" * limit):
        with pytest.raises(
            InvalidArgument, match=f"{kind} data must be larger than 0 and less than {limit} bytes"
        ):
            secrets.validate(kind, DataSpec(name="a"), data)


@each_kind
def test_a_template_is_checked_at_once_and_never_quoted_for_a_secret(kind: DataKind) -> None:
    spec = DataSpec(name="a", templated=True)
    good = (
        b'\xff {{env "X"}} {{secret "t"}} {{config "t"}} {{.Node.ID}} {{index .Service.Labels "a"}}'
    )
    secrets.validate(kind, spec, good)
    with pytest.raises(InvalidArgument, match=f"cannot create {kind} a: ") as caught:
        secrets.validate(kind, spec, b"{{marker}}")
    assert ("marker" in str(caught.value)) == (kind == "config")
    secrets.validate(kind, DataSpec(name="a"), b"marker {{marker")


@each_kind
def test_a_name_can_be_taken_once_by_each_kind(kind: DataKind) -> None:
    state = ClusterState()
    make(state, "secret", "1", "a")
    make(state, "config", "2", "a")
    with pytest.raises(Conflict, match=f"desc = {kind} a already exists"):
        make(state, kind, "3", "a")


@each_kind
def test_what_services_use_is_not_removed_and_they_are_named(kind: DataKind) -> None:
    state = ClusterState()
    make(state, kind, "1", "a")
    make(state, kind, "2", "b")
    use(state, kind, "1", "a", "web")
    with pytest.raises(
        InvalidArgument, match=f"{kind} 'a' is in use by the following service: web$"
    ):
        secrets.removal(state, kind, "1")
    use(state, kind, "1", "a", "db")
    with pytest.raises(InvalidArgument, match="in use by the following services: web, db$"):
        secrets.removal(state, kind, "1")
    use(state, kind, "2", "b", "web", "db")
    state.apply(secrets.removal(state, kind, "1"), 2)
    assert "1" not in state.tables[kind]
    with pytest.raises(NotFound, match=f"{kind} 1 not found"):
        secrets.removal(state, kind, "1")


@each_kind
def test_only_labels_can_be_updated(kind: DataKind) -> None:
    state = ClusterState()
    make(state, kind, "1", "a")
    version = state.tables[kind]["1"].meta.version
    labelled = DataSpec(name="a", labels={"x": "y"})
    with pytest.raises(InvalidArgument, match="only updates to Labels are allowed"):
        secrets.update(state, kind, "1", version, DataSpec(name="b"), lambda _: True)
    with pytest.raises(InvalidArgument, match="only updates to Labels are allowed"):
        secrets.update(state, kind, "1", version, labelled, lambda _: False)
    with pytest.raises(OutOfSequence):
        secrets.update(state, kind, "1", version + 1, labelled, lambda _: True)
    state.apply(secrets.update(state, kind, "1", version, labelled, lambda _: True), 2)
    assert state.named(kind, "a") is state.tables[kind]["1"]
    found = state.tables[kind]["1"]
    assert getattr(found, "spec", None) == labelled


@each_kind
def test_drivers_are_refused_by_name(kind: DataKind) -> None:
    secrets.check_driver(kind, "a", "", "golang")
    with pytest.raises(Unsupported, match="secret driver 'vault' is not supported"):
        secrets.check_driver(kind, "a", "vault", None)
    with pytest.raises(Unsupported, match="template driver 'jinja' is not supported"):
        secrets.check_driver(kind, "a", "", "jinja")
