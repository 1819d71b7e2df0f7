"""Small images that stand in for those that stack files name: the demo image with shell scripts
that listen where the real programs do, read the same files and variables, and need each other."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from weft.lab.lab import IMAGE_ARCHIVE

CGI = "#!/bin/sh\nexec 2>&1\necho Content-Type: text/plain; echo\n"
SCRIPTS = {
    "usr/local/bin/app": (
        '#!/bin/sh\ncase "$1" in\n'
        "serve) exec httpd -f -p 8000 -h /srv/app;;\n"
        "worker) trap 'exit 0' INT; while :; do sleep 1 & wait; done;;\nesac\n"
    ),
    "srv/app/healthz": "fine\n",
    "srv/app/cgi-bin/order": (
        f"{CGI}echo version $VERSION on $(hostname), mode $(stat -c %u:%a $SECRET_KEY_FILE)\n"
        "echo cache $(wget -q -O- http://cache:6379/ping)\n"
        "wget -q -O- http://$DATABASE_HOST:5432/cgi-bin/add?$(cat $DATABASE_PASSWORD_FILE)\n"
    ),
    "usr/local/bin/redis-server": "#!/bin/sh\nexec httpd -f -p 6379 -h /srv/cache\n",
    "usr/local/bin/redis-cli": "#!/bin/sh\nexec wget -q -O- http://127.0.0.1:6379/$1\n",
    "srv/cache/ping": "PONG\n",
    "usr/local/bin/postgres": (
        '#!/bin/sh\nset -eu\nmkdir -p "$PGDATA"\n'
        '[ -e "$PGDATA/rows" ] || echo created as $POSTGRES_USER > "$PGDATA/rows"\n'
        "exec httpd -f -p 5432 -h /srv/db\n"
    ),
    "usr/local/bin/pg_isready": "#!/bin/sh\nexec wget -q -O- http://127.0.0.1:5432/ready?$2,$4\n",
    "srv/db/ready": "accepting connections\n",
    "srv/db/cgi-bin/add": (
        f'{CGI}[ "$QUERY_STRING" = "$(cat $POSTGRES_PASSWORD_FILE)" ] || {{ echo denied; exit; }}\n'
        'echo row >> "$PGDATA/rows"\n'
        'echo $(head -n 1 "$PGDATA/rows"), $(grep -c row "$PGDATA/rows") rows\n'
    ),
    "usr/local/bin/gateway": "#!/bin/sh\nexec httpd -f -p 8080 -h /srv/gateway\n",
    "srv/gateway/cgi-bin/about": (
        f"{CGI}for name in NODE PLATFORM SERVICE STACK TIER SLOT TASK PRIMARY; do\n"
        "eval echo $name=\\$$name; done\necho HOST=$(hostname)\ncat /etc/gateway.conf\n"
        "wget -q -O- http://books:9000/cgi-bin/entry\n"
    ),
    "usr/local/bin/ledger": "#!/bin/sh\nexec httpd -f -p 9000 -h /srv/ledger\n",
    "srv/ledger/cgi-bin/entry": (
        f"{CGI}cat /ledger\necho key=$(cat /run/secrets/signing_key)\n"
        "wget -q -O- http://keystore:7000/seal\n"
    ),
    "usr/local/bin/keystore": (
        "#!/bin/sh\necho seal=$(grep -c ' /keys tmpfs ' /proc/mounts) > /keys/seal\n"
        "exec httpd -f -p 7000 -h /keys\n"
    ),
}
IMAGES = {
    "registry.example.com/shop/app:1.4.2": ["app", "serve"],
    "registry.example.com/shop/app:1.5.0": ["app", "serve"],
    "redis:7-alpine": ["redis-server"],
    "postgres:16-alpine": ["postgres"],
    "registry.example.com/bank/gateway:2.0": ["gateway"],
    "registry.example.com/bank/ledger:2.0": ["ledger"],
    "registry.example.com/bank/keystore:2.0": ["keystore"],
}
"""What each runs if the file says nothing else. The tag is in the variable VERSION."""


def write_archive(path: Path) -> None:
    """All of them, for `docker load`."""
    with tarfile.open(IMAGE_ARCHIVE) as tar:
        blobs = {m.name: read(tar, m) for m in tar if m.isreg()}
    (manifest,) = json.loads(blobs.pop("manifest.json"))
    base = json.loads(blobs.pop(manifest["Config"]))
    added = layer()
    base["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(added).hexdigest()}")
    blobs["stand-ins.tar"] = added
    manifests: list[dict[str, Any]] = []
    for number, (tag, command) in enumerate(IMAGES.items()):
        version = f"VERSION={tag.rpartition(':')[2]}"
        config = base["config"] | {"Cmd": command, "Env": [*base["config"]["Env"], version]}
        config |= {"StopSignal": "SIGKILL", "ExposedPorts": {}}
        blobs[f"config-{number}.json"] = json.dumps(base | {"config": config}).encode()
        manifests.append(
            {
                "Config": f"config-{number}.json",
                "RepoTags": [tag],
                "Layers": [*manifest["Layers"], "stand-ins.tar"],
            }
        )
    blobs["manifest.json"] = json.dumps(manifests).encode()
    path.write_bytes(packed(blobs, 0o644))


def layer() -> bytes:
    return packed({name: text.encode() for name, text in SCRIPTS.items()}, 0o755)


def packed(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()
