"""Requests, and ways to write down such as nobody should send.

A `Draft` is a request that can still be spoilt (`spoiling.py` does); `VALID` has one for each route
that takes something, `KNOWN` those that have gone wrong once. `python -m tests.hostile` sends them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

Names = Mapping[str, str]
"""What stands for `{id}`, by the first word of a path, and for `VERSION`, by `version of ` and
that word."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    framed: bool = True
    """False: it says something else of its length than it has. It may go unanswered."""

    def encode(self) -> bytes:
        target = self.path + (
            f"?{urlencode(self.query, errors='surrogatepass')}" if self.query else ""
        )
        headers = [("Host", "docker"), ("Connection", "close"), *self.headers]
        if self.body and not {"content-length", "transfer-encoding"} & {
            name.lower() for name, _ in headers
        }:
            headers.append(("Content-Length", str(len(self.body))))
        head = [
            f"{self.method} {target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers),
        ]
        return "\r\n".join([*head, "", ""]).encode("utf-8", "surrogatepass") + self.body

    def __str__(self) -> str:
        shown = self.encode()
        return repr(shown if len(shown) <= 600 else shown[:600] + b"...")[2:-1]


@dataclass
class Draft:
    """A request while it is being spoilt."""

    method: str
    path: str
    """With `{id}`."""
    query: list[tuple[str, str]] = field(default_factory=list)
    body: Any = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    data: bytes | None = None
    """The body's bytes, where they are no longer what `body` says."""
    version: str = ""
    id: str | None = None
    framed: bool = True

    def request(self, names: Names) -> Request:
        kind = self.path.strip("/").partition("/")[0]
        id = self.id if self.id is not None else names.get(kind, "nothing")
        query = tuple(
            (name, names.get(f"version of {kind}", "1") if value == VERSION else value)
            for name, value in self.query
        )
        path = self.path.replace("{id}", id).replace("{id:.+}", id)
        data = (
            self.data if self.data is not None else (b"" if self.body is None else dump(self.body))
        )
        headers = list(self.headers)
        if data and "content-type" not in {name.lower() for name, _ in headers}:
            headers.append(("Content-Type", "application/json"))
        version = f"/v{self.version}" if self.version else ""
        return Request(self.method, version + path, query, tuple(headers), data, self.framed)


# --- JSON that may be none


class Raw(bytes):
    """Stands in the JSON as it is."""


class Pairs(list[Any]):
    """An object of which a key may stand twice."""


def dump(value: Any) -> bytes:
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, Pairs):
        return b"{" + b",".join(dump(key) + b":" + dump(item) for key, item in value) + b"}"
    if isinstance(value, dict):
        return dump(Pairs(value.items()))
    if isinstance(value, list | tuple):
        return b"[" + b",".join(map(dump, value)) + b"]"
    return json.dumps(value).encode()


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]", inner: bytes = b"0") -> Raw:
    return Raw(opening * depth + inner + closing * depth)


# --- valid requests

CONTAINER = {
    "Image": "zaggash/demo-webapp:latest", "Labels": {"a": "b"}, "Args": ["sleep", "5"],
    "Env": ["A=b", "C={{.Node.ID}}"],
    "Hostname": "h", "Dir": "/", "User": "1000:1000", "Groups": ["10"], "StopSignal": "SIGTERM",
    "TTY": False, "Hosts": ["1.2.3.4 h"],
    "Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/data"},
        {"Type": "tmpfs", "Target": "/t",
            "TmpfsOptions": {"SizeBytes": 1, "Mode": 448, "Options": [["exec"]]}},
        {"Type": "volume", "Source": "data", "Target": "/v", "VolumeOptions": {
            "NoCopy": True, "Labels": {"a": "{{.Task.Slot}}"}, "Subpath": "a/b",
            "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs"}}}},
        {"Type": "bind", "Source": "/tmp", "Target": "/b", "ReadOnly": True, "BindOptions": {
            "Propagation": "rprivate", "NonRecursive": True, "ReadOnlyNonRecursive": True}}],
    "StopGracePeriod": 1000,
    "DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["a.b"], "Options": ["ndots:1"]},
    "Sysctls": {"net.ipv4.ip_forward": "1"}, "CapabilityAdd": ["CAP_NET_ADMIN"],
    "Ulimits": [{"Name": "nofile", "Hard": 10, "Soft": 5}],
}  # fmt: skip
SERVICE = {
    "Name": "other", "Labels": {"x": "y"}, "Mode": {"Replicated": {"Replicas": 1}},
    "TaskTemplate": {
        "ContainerSpec": CONTAINER,
        "Resources": {"Limits": {"NanoCPUs": 10**9, "MemoryBytes": 2**23, "Pids": 5}},
        "RestartPolicy": {"Condition": "any", "Delay": 5, "MaxAttempts": 1, "Window": 7},
        "Networks": [{"Target": "net", "Aliases": ["a"]}],
        "Placement": {"Constraints": ["node.role == worker"],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.z"}}]},
        "LogDriver": {"Name": "json-file"}, "ForceUpdate": 1, "Runtime": "container",
    },
    "UpdateConfig": {"Parallelism": 1, "Delay": 1, "FailureAction": "pause", "Monitor": 9,
        "MaxFailureRatio": 0.5, "Order": "stop-first"},
    "RollbackConfig": {"Parallelism": 1},
    "EndpointSpec": {"Mode": "vip", "Ports": [{"Protocol": "tcp", "TargetPort": 80}]},
}  # fmt: skip
VOLUME = {
    "Name": "vol1", "Driver": "local", "Labels": {"a": "b"},
    "DriverOpts": {"type": "none", "o": "bind,ro", "device": "/tmp"},
}  # fmt: skip
NETWORK = {
    "Name": "more", "Driver": "overlay", "Attachable": True, "Labels": {"a": "b"},
    "Options": {"com.docker.network.driver.mtu": "1400"},
    "IPAM": {"Driver": "default", "Config": [{
        "Subnet": "10.77.0.0/24", "Gateway": "10.77.0.1", "IPRange": "10.77.0.128/25",
        "AuxiliaryAddresses": {"a": "10.77.0.9"},
    }]},
}  # fmt: skip
BRIDGE = {
    "Name": "local", "Driver": "bridge", "Internal": False, "Attachable": True, "EnableIPv4": True,
    "Scope": "local", "Labels": {"a": "b"},
    "Options": {
        "com.docker.network.bridge.name": "mine0",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.enable_ip_masquerade": "true",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
        "com.docker.network.driver.mtu": "1400",
    },
    "IPAM": {"Driver": "default", "Config": [{
        "Subnet": "10.88.0.0/24", "Gateway": "10.88.0.1", "IPRange": "10.88.0.128/25",
        "AuxiliaryAddresses": {"a": "10.88.0.9"},
    }]},
}  # fmt: skip
ENDPOINT = {
    "IPAMConfig": {"IPv4Address": "10.88.0.77"}, "Aliases": ["a"],
    "MacAddress": "02:42:0a:58:00:4d",
}  # fmt: skip
LIMITS = {
    "CpuShares": 512, "Memory": 2**23, "CpuPeriod": 100_000, "CpuQuota": 50_000,
    "CpusetCpus": "0", "CpusetMems": "0", "MemoryReservation": 2**22, "MemorySwap": 2**24,
    "MemorySwappiness": 10, "OomKillDisable": False, "PidsLimit": 5, "BlkioWeight": 10,
    "BlkioWeightDevice": [{"Path": "/dev/null", "Weight": 10}],
    "BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 1}],
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
}  # fmt: skip
PLAIN = {
    "Image": "zaggash/demo-webapp:latest", "Hostname": "h", "Domainname": "d.e", "User": "1000:10",
    "AttachStdout": True, "ExposedPorts": {"80/tcp": {}}, "Tty": False, "OpenStdin": True,
    "StdinOnce": True, "Env": ["A=b"], "Cmd": ["sleep", "5"], "Entrypoint": ["/bin/sh"],
    "Volumes": {"/anonymous": {}}, "WorkingDir": "/", "Labels": {"a": "b"},
    "MacAddress": "02:42:0a:58:00:4e", "StopSignal": "SIGTERM", "StopTimeout": 1, "Shell": ["sh"],
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9, "Timeout": 10**9, "Retries": 1},
    "HostConfig": LIMITS | {
        "Binds": ["/tmp:/data:ro,rslave", "data:/v:nocopy"], "NetworkMode": "default",
        "ContainerIDFile": "/tmp/id",
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000-8010"}]},
        "VolumesFrom": [], "ConsoleSize": [24, 80], "Annotations": {"a": "b"},
        "CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"], "CgroupnsMode": "private",
        "Dns": ["1.1.1.1"], "DnsOptions": ["ndots:1"], "DnsSearch": ["a.b"],
        "ExtraHosts": ["x:1.2.3.4", "y:host-gateway"], "GroupAdd": ["10"], "IpcMode": "private",
        "OomScoreAdj": 5, "PidMode": "", "PublishAllPorts": True, "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"], "Tmpfs": {"/t": "size=1m,ro"},
        "UTSMode": "", "UsernsMode": "", "ShmSize": 2**20, "Runtime": "runc", "Init": True,
        "Sysctls": {"net.ipv4.ip_forward": "1"}, "MaskedPaths": [], "ReadonlyPaths": [],
        "Mounts": [{"Type": "tmpfs", "Target": "/m", "TmpfsOptions": {"SizeBytes": 1}}],
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x",
            "CgroupPermissions": "r"}],
        "Ulimits": [{"Name": "nofile", "Hard": 10, "Soft": 5}],
    },
    "NetworkingConfig": {"EndpointsConfig": {"bridge": {}}},
}  # fmt: skip
SPEC = {
    "Name": "default", "Labels": {}, "Orchestration": {"TaskHistoryRetentionLimit": 5},
    "Raft": {"SnapshotInterval": 10000},
    "Dispatcher": {"HeartbeatPeriod": 5 * 10**9}, "CAConfig": {"NodeCertExpiry": 7776000 * 10**9},
    "EncryptionConfig": {},
}  # fmt: skip
INIT = {
    "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "10.59.72.11:2377", "DataPathPort": 4789,
    "DefaultAddrPool": ["10.0.0.0/8"],
    "SubnetSize": 24, "ForceNewCluster": False, "Spec": SPEC, "Availability": "active",
}  # fmt: skip
JOIN = {
    "ListenAddr": "0.0.0.0:2377",
    "RemoteAddrs": ["10.59.72.11:2377"],
    "JoinToken": "SWMTKN-1-" + "a" * 50 + "-" + "b" * 25,
}
EXEC = {
    "Cmd": ["cat"],
    "AttachStdin": True,
    "AttachStdout": True,
    "Env": ["A=b"],
    "User": "0",
    "WorkingDir": "/",
    "ConsoleSize": [24, 80],
}
FILTERS = '{"name":{"web":true},"label":["a=b"],"id":["a"]}'
LOGS = [
    ("stdout", "1"),
    ("stderr", "1"),
    ("tail", "5"),
    ("since", "1700000000"),
    ("until", "1700000001"),
    ("timestamps", "1"),
]

VERSION = "{version}"
"""Stands for that of the object in the path."""
VALID: Mapping[tuple[str, str], tuple[list[tuple[str, str]], Any]] = {
    ("GET", "/events"): (
        [("since", "1"), ("until", "2"), ("filters", '{"type":["container"]}')],
        None,
    ),
    ("GET", "/containers/json"): ([("all", "1"), ("limit", "5"), ("filters", FILTERS)], None),
    ("POST", "/containers/create"): ([("name", "plain"), ("platform", "linux")], PLAIN),
    ("POST", "/containers/prune"): ([("filters", '{"label":["no=such"],"until":["1h"]}')], None),
    ("POST", "/containers/{id}/update"): ([], LIMITS),
    ("POST", "/containers/{id}/rename"): ([("name", "here")], None),
    ("POST", "/containers/{id}/restart"): ([("t", "1"), ("signal", "SIGTERM")], None),
    ("GET", "/containers/{id}/logs"): (LOGS, None),
    ("GET", "/containers/{id}/top"): ([("ps_args", "-e -o pid,args")], None),
    ("GET", "/containers/{id}/archive"): ([("path", "/etc/passwd")], None),
    ("PUT", "/containers/{id}/archive"): ([("path", "/"), ("copyUIDGID", "1")], None),
    ("GET", "/containers/{id}/stats"): ([("stream", "0"), ("one-shot", "1")], None),
    ("GET", "/system/df"): ([("type", "image")], None),
    ("POST", "/containers/{id}/attach"): ([("stream", "1"), ("stdout", "1")], None),
    ("POST", "/containers/{id}/resize"): ([("h", "24"), ("w", "80")], None),
    ("POST", "/containers/{id}/wait"): ([("condition", "not-running")], None),
    ("POST", "/containers/{id}/stop"): ([("t", "1")], None),
    ("POST", "/containers/{id}/kill"): ([("signal", "SIGCONT")], None),
    ("DELETE", "/containers/{id}"): ([("force", "0"), ("v", "0")], None),
    ("POST", "/containers/{id}/exec"): ([], EXEC),
    ("POST", "/exec/{id}/start"): ([], {"Detach": False, "Tty": False, "ConsoleSize": [24, 80]}),
    ("POST", "/exec/{id}/resize"): ([("h", "24"), ("w", "80")], None),
    ("GET", "/images/json"): (
        [("filters", '{"reference":["zagg*/*:lat?st"],"dangling":["false"]}')],
        None,
    ),
    ("POST", "/images/create"): ([("fromImage", "busybox"), ("tag", "latest")], None),
    ("GET", "/images/get"): ([("names", "zaggash/demo-webapp:latest"), ("names", "a")], None),
    ("GET", "/images/{id:.+}/get"): ([("platform", '{"os":"linux","architecture":"amd64"}')], None),
    ("GET", "/images/{id:.+}/history"): ([], None),
    ("POST", "/images/{id:.+}/push"): ([("tag", "latest")], None),
    ("POST", "/commit"): (
        [
            ("container", "here"),
            ("repo", "a/b"),
            ("tag", "c"),
            ("author", "a"),
            ("comment", "b"),
            ("changes", "EXPOSE 80-90/udp"),
            ("changes", "HEALTHCHECK --interval=1s --retries=2 CMD true"),
            ("changes", 'ENV A="b c" D=e'),
        ],
        {},
    ),
    ("POST", "/images/{id:.+}/tag"): ([("repo", "a.b:5000/c"), ("tag", "d")], None),
    ("DELETE", "/images/{id:.+}"): ([("force", "0")], None),
    ("GET", "/volumes"): ([("filters", FILTERS)], None),
    ("POST", "/volumes/create"): ([], VOLUME),
    ("POST", "/volumes/prune"): ([("filters", '{"label":["no=such"],"all":["1"]}')], None),
    ("PUT", "/volumes/{id}"): ([("version", VERSION)], VOLUME),
    ("DELETE", "/volumes/{id}"): ([("force", "1")], None),
    ("GET", "/networks"): ([("filters", FILTERS)], None),
    ("POST", "/networks/create"): ([], NETWORK),
    ("POST", "/networks/{id}/connect"): ([], {"Container": "here", "EndpointConfig": ENDPOINT}),
    ("POST", "/networks/{id}/disconnect"): ([], {"Container": "here", "Force": False}),
    ("POST", "/networks/prune"): ([("filters", '{"label":["no=such"]}')], None),
    ("GET", "/networks/{id}"): ([("verbose", "1"), ("scope", "swarm")], None),
    ("POST", "/swarm/init"): ([], INIT),
    ("POST", "/swarm/join"): ([], JOIN),
    ("POST", "/swarm/leave"): ([("force", "0")], None),
    ("POST", "/swarm/update"): ([("version", VERSION), ("rotateWorkerToken", "0")], SPEC),
    ("GET", "/services"): (
        [("status", "1"), ("filters", '{"name":["web"],"mode":["replicated"]}')],
        None,
    ),
    ("POST", "/services/create"): ([], SERVICE),
    ("POST", "/services/{id}/update"): (
        [("version", VERSION), ("rollback", "")],
        SERVICE | {"Name": "web"},
    ),
    ("GET", "/services/{id}/logs"): (LOGS, None),
    ("GET", "/tasks"): ([("filters", '{"service":["web"],"desired-state":["running"]}')], None),
    ("GET", "/tasks/{id}/logs"): (LOGS, None),
    ("GET", "/nodes"): ([("filters", '{"role":["manager"],"name":["node1"]}')], None),
    ("POST", "/nodes/{id}/update"): (
        [("version", VERSION)],
        {"Role": "worker", "Availability": "active", "Labels": {"a": "b"}},
    ),
    ("DELETE", "/nodes/{id}"): ([("force", "0")], None),
    ("POST", "/weft/keys/update"): ([], {"Every": 3600 * 10**9, "Bits": 128}),
    ("POST", "/weft/flows"): ([], {"Service": "web"}),
    ("POST", "/weft/top"): ([], {"Every": 2 * 10**9, "Once": True}),
    ("POST", "/weft/trace"): (
        [],
        {"Source": "web", "Target": "web", "Port": 80, "Protocol": "tcp"},
    ),
}


# --- what has gone wrong once

LONG_NAME = "paymentgatewayintegrationforeverybodyineurope.x"


def _service(**container: Any) -> Any:
    return SERVICE | {"TaskTemplate": {"ContainerSpec": CONTAINER | container}}


KNOWN: tuple[Draft, ...] = (
    Draft("POST", "/services/create", body=SERVICE | {"Name": LONG_NAME}),
    Draft("POST", "/networks/create", body=NETWORK | {"Name": LONG_NAME}),
    Draft("GET", "/info", version="9" * 5000 + ".1"),
    Draft("POST", "/weft/keys/update", body={"Every": 10**30}),
    Draft(
        "POST",
        "/services/create",
        body=_service(Ulimits=[{"Name": "nofile", "Hard": 2**64, "Soft": 2**64}]),
    ),
    Draft(
        "POST", "/services/create", body=_service(DNSConfig={"Options": ["ndots:" + "9" * 5000]})
    ),
    Draft("POST", "/services/create", body=_service(Env=["A={{" + " " * 100_000])),
    Draft("POST", "/services/create", body=SERVICE | {"Mode": {"Replicated": {"Replicas": 2**62}}}),
    Draft(
        "POST",
        "/services/create",
        body=SERVICE | {"Labels": {str(number): "" for number in range(250_000)}},
    ),
    Draft("POST", "/services/create", body=_service(Args=["a"] * 200_000)),
    Draft(
        "POST",
        "/networks/create",
        body=NETWORK | {"Options": {"com.docker.network.driver.mtu": "9" * 5000}},
    ),
    Draft("POST", "/networks/create", data=b"{}", headers=[("Content-Encoding", "gzip")]),
    Draft("POST", "/images/load", data=b"x", headers=[("Content-Encoding", "deflate")]),
    Draft("GET", "/networks", query=[("filters", '{"name":["(a+)+$"]}')]),
    Draft(
        "GET", "/images/json", query=[("filters", json.dumps({"reference": ["*a" * 100 + "!"]}))]
    ),
    Draft("POST", "/containers/{id}/resize", query=[("h", str(10**30)), ("w", "1")]),
    Draft("POST", "/containers/{id}/stop", query=[("t", "9" * 5000)]),
    Draft("GET", "/events", query=[("since", "9" * 5000)]),
    Draft("PUT", "/containers/{id}/archive", query=[("path", "/" + "a" * 256)], data=b""),
    Draft("POST", "/swarm/init", body=INIT | {"DefaultAddrPool": ["10.0.0.0/8"] * 20_000}),
)
"""From the outside in: the same requests each time, before all others."""
