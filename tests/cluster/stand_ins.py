"""Small images that stand in for those that stack files name: the demo image with shell scripts
that listen where the real programs do, read the same files and variables, and need each other."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from weft.lab.lab import IMAGE_ARCHIVE

CGI = "#!/bin/sh\nexec 2>&1\necho Content-Type: text/plain; echo\n"
SCRIPTS = {
    "usr/local/bin/app": (
        '#!/bin/sh\ncase "$1" in\n'
        "serve) exec httpd -f -p 8000 -h /srv/app;;\n"
        "worker) trap 'exit 0' INT; while :; do sleep 1 & wait; done;;\n"
        "migrate) wget -q -O- http://$DATABASE_HOST:5432/cgi-bin/add?$(cat $DATABASE_PASSWORD_FILE)"
        ';;\nconsole) shift; exec "$@";;\nesac\n'
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
    "usr/local/bin/node_exporter": "#!/bin/sh\nexec httpd -f -p 9100 -h /srv/exporter\n",
    "srv/exporter/cgi-bin/metrics": (
        f"{CGI}echo node_load $(cat /host/proc/loadavg)\necho node_name $(cat /rootfs/etc/hostname)\n"
        "echo node_network $(ls /host/sys/class/net)\n"
        "echo node_processes $(ls /host/proc | grep -c '^[0-9]')\n"
    ),
    "usr/local/bin/cadvisor": "#!/bin/sh\nexec httpd -f -p 8080 -h /srv/cadvisor\n",
    "srv/cadvisor/cgi-bin/metrics": (
        f"{CGI}echo machine_name $(cat /rootfs/etc/hostname)\n"
        "echo container_files $(find /sys/fs/cgroup -name 'memory*' | wc -l)\n"
        "test -c /dev/kmsg && echo kmsg 1\n"
    ),
    "usr/local/bin/socket-proxy": "#!/bin/sh\nexec nginx -c /srv/socket-proxy.conf\n",
    "srv/socket-proxy.conf": (
        "user root;\ndaemon off;\nerror_log stderr;\npid /tmp/nginx.pid;\nevents {\n}\nhttp {\n"
        "access_log off;\nclient_body_temp_path /tmp/body;\nproxy_temp_path /tmp/proxy;\n"
        "fastcgi_temp_path /tmp/fastcgi;\nuwsgi_temp_path /tmp/uwsgi;\nscgi_temp_path /tmp/scgi;\n"
        "server {\nlisten 2375;\nlocation /containers/ {\n"
        "proxy_pass http://unix:/var/run/docker.sock;\n}\n}\n}\n"
    ),
    "usr/local/bin/prometheus": (
        "#!/bin/sh\nset -eu\nid -u > /prometheus/owner\nexec httpd -f -p 9090 -h /srv/prometheus\n"
    ),
    "srv/prometheus/cgi-bin/query": (
        f"{CGI}for target in $(grep -o '[a-z.]*:[0-9]*' /etc/prometheus/prometheus.yml); do\n"
        "wget -q -O- http://$target/cgi-bin/metrics || echo $target is down\ndone\n"
        "wget -q -O- http://socket-proxy:2375/containers/json\n"
    ),
    "usr/local/bin/grafana": "#!/bin/sh\nexec httpd -f -p 3000 -h /srv/grafana\n",
    "srv/grafana/api/health": "ok\n",
    "srv/grafana/cgi-bin/board": (
        f"{CGI}cat $GF_SECURITY_ADMIN_PASSWORD__FILE; echo\n"
        "wget -q -O- http://prometheus:9090/cgi-bin/query\n"
    ),
}
NOBODY: Mapping[str, int] = MappingProxyType({})
OWNED = {"prometheus": 65534}
"""Directories, with the user who may write into them."""
IMAGES = {
    "registry.example.com/shop/app:1.4.2": ["app", "serve"],
    "registry.example.com/shop/app:1.5.0": ["app", "serve"],
    "redis:7-alpine": ["redis-server"],
    "postgres:16-alpine": ["postgres"],
    "registry.example.com/bank/gateway:2.0": ["gateway"],
    "registry.example.com/bank/ledger:2.0": ["ledger"],
    "registry.example.com/bank/keystore:2.0": ["keystore"],
    "nginx:1.27-alpine": ["nginx", "-g", "daemon off;"],
    "quay.io/prometheus/node-exporter:v1.8.2": [],
    "gcr.io/cadvisor/cadvisor:v0.49.1": [],
    "tecnativa/docker-socket-proxy:0.2": ["socket-proxy"],
    "prom/prometheus:v2.53.0": ["--config.file=/etc/prometheus/prometheus.yml"],
    "grafana/grafana:11.1.0": [],
}
"""What each runs if the file says nothing else. The tag is in the variable VERSION."""
ENTRYPOINTS = {
    "quay.io/prometheus/node-exporter:v1.8.2": ["node_exporter"],
    "gcr.io/cadvisor/cadvisor:v0.49.1": ["cadvisor", "-logtostderr"],
    "prom/prometheus:v2.53.0": ["prometheus"],
    "grafana/grafana:11.1.0": ["grafana"],
}
"""Of those where a command in the file is only arguments."""


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
        config["Entrypoint"] = ENTRYPOINTS.get(tag)
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
    return packed({name: text.encode() for name, text in SCRIPTS.items()}, 0o755, OWNED)


def packed(files: dict[str, bytes], mode: int, owned: Mapping[str, int] = NOBODY) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, user in owned.items():
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode, directory.uid = tarfile.DIRTYPE, 0o755, user
            tar.addfile(directory)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()
