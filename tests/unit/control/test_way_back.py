"""An automatic rollback to something that cannot be had any more: the update pauses, and says why,
as a rollback that the user asks for is refused."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from tests.support.control_room import ControlRoom
from weft.control.requests import secrets, services
from weft.control.requests.services import rollback
from weft.errors import WeftError
from weft.model.ids import ConfigId, SecretId, ServiceId
from weft.model.network import NetworkSpec
from weft.model.secret import DataReference, DataSpec, Sealed
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    NetworkAttachmentSpec,
    PublishedPort,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
    UpdateState,
)

ONCE = RestartPolicy(condition="none")


def with_container(**fields: object) -> ServiceSpec:
    container = replace(ContainerSpec(image="one"), **fields)
    return ServiceSpec(name="web", replicas=3, task=TaskSpec(container=container, restart=ONCE))


def needs_secret(room: ControlRoom) -> tuple[ServiceSpec, Callable[[], None]]:
    spec = DataSpec(name="token")
    room.commit(secrets.secret_creation(room.state, SecretId("s1"), spec, Sealed("", b"", b"")))
    reference = DataReference(id="s1", name="token", target="token")
    return with_container(secrets=(reference,)), lambda: _removed(room, "secret", "s1")


def needs_config(room: ControlRoom) -> tuple[ServiceSpec, Callable[[], None]]:
    room.commit(secrets.config_creation(room.state, ConfigId("c1"), DataSpec(name="conf"), b"x"))
    reference = DataReference(id="c1", name="conf", target="conf")
    return with_container(configs=(reference,)), lambda: _removed(room, "config", "c1")


def _removed(room: ControlRoom, kind: str, id: str) -> None:
    room.commit(secrets.removal(room.state, kind, id))  # type: ignore[arg-type]  # a literal


def needs_network(room: ControlRoom) -> tuple[ServiceSpec, Callable[[], None]]:
    id = room.network(NetworkSpec(name="back"))
    spec = with_container()
    task = replace(spec.task, networks=(NetworkAttachmentSpec(id),))

    def remove() -> None:
        room.remove(room.state.networks[id])

    return replace(spec, task=task), remove


def needs_port(room: ControlRoom) -> tuple[ServiceSpec, Callable[[], None]]:
    endpoint = EndpointSpec(ports=(PublishedPort(80, 8080),))

    def give() -> None:
        room.run("allocator")
        other = replace(with_container(), name="other", endpoint=endpoint)
        room.commit(services.creation(room.state, ServiceId("other"), other, room.now))

    return replace(with_container(), endpoint=endpoint), give


@pytest.mark.parametrize(
    ("needs", "cause"),
    [
        (needs_secret, "secret token not found"),
        (needs_config, "config conf not found"),
        (needs_network, "network net000002 not found"),
        (needs_port, "port '8080' is already in use by service 'other' (other) as an ingress port"),
    ],
)
def test_an_update_that_cannot_be_rolled_back_pauses(
    needs: Callable[[ControlRoom], tuple[ServiceSpec, Callable[[], None]]], cause: str
) -> None:
    room = ControlRoom(nodes=3)
    before, take_away = needs(room)
    id = room.service(before)
    room.settle()
    room.failing.add("bad")
    task = TaskSpec(container=ContainerSpec(image="bad"), restart=ONCE)
    after = ServiceSpec(
        name="web", replicas=3, task=task, update=UpdateConfig(failure_action="rollback")
    )
    room.commit(services.update(room.state, id, version(room, id), after, room.now))
    take_away()
    room.settle()
    status = room.state.services[id].update_status
    assert status is not None
    assert status.state == UpdateState.PAUSED
    assert status.message.startswith("update paused due to failure or early termination of task ")
    assert status.message.endswith(f"; cannot roll back: {cause}")
    assert [task.spec.container.image for task in room.running(id)] == ["one"] * 2
    with pytest.raises(WeftError, match="not found|already in use"):
        rollback(room.state, id, version(room, id), room.now)


def version(room: ControlRoom, id: ServiceId) -> int:
    return room.state.services[id].meta.version
