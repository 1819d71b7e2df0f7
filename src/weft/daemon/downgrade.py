"""Whether a newer version of Weft has written this manager's files: after a downgrade.

Such a daemon does not start at all. It could read the containers' records and the assignment of the
newer one as little as the swarm's state, and containers go on without it.

The embedded store and the state that is kept of an etcd tell. The etcd itself may be newer without
that, while the managers are upgraded one after the other: a manager then waits for its own turn."""

from pathlib import Path

from weft import VERSION
from weft.daemon.manager_host import DATABASE, LAST_STATE
from weft.store.kept import KeptState
from weft.store.schema import CURRENT
from weft.store.sqlite import written_schema

NEWER = (
    "a newer version of Weft has written {path} (its schema is {found}; this version, {version},"
    " knows {known} and older). Nothing was changed there. Install that version again, or restore a"
    " backup that this version has made"
)


def newer_files(swarm: Path) -> list[str]:
    """A sentence for each file that is too new. `swarm`: the directory of the swarm's files."""
    database, kept = swarm / DATABASE, swarm / LAST_STATE
    found = {database: written_schema(database), kept: KeptState(kept).written_schema}
    return [
        NEWER.format(path=path, found=schema, version=VERSION, known=CURRENT.version)
        for path, schema in found.items()
        if schema is not None and schema > CURRENT.version
    ]
