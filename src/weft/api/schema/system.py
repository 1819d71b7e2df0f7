"""The node itself: the JSON of `docker version` and `docker info`."""

from collections.abc import Sequence

from weft.api.schema.common import Json, rfc3339, rfc3339_fixed
from weft.api.schema.generic import generic_json
from weft.api.schema.swarm import cluster_info_json
from weft.model import log_options
from weft.model.cluster import Cluster
from weft.model.host import HostInfo
from weft.model.membership import Membership
from weft.model.registry import HUB, RegistrySettings

GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

CAPABILITIES: Json = {
    "MemoryLimit": True,
    "CpuCfsPeriod": True,
    "CpuCfsQuota": True,
    "CPUShares": True,
    "CPUSet": True,
    "PidsLimit": True,
    "IPv4Forwarding": True,
}
"""Kernel features that Weft requires anyway."""
CDI_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
"""Where files describe devices: see `runtime/cdi_files.py`."""
INDEX_SERVER = "https://index.docker.io/v1/"


def version_json(info: HostInfo, api: str, min_api: str) -> Json:
    architecture = GO_ARCHITECTURES.get(info.architecture, info.architecture)
    engine = {
        "ApiVersion": api,
        "Arch": architecture,
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": "none (Python)",
        "KernelVersion": info.kernel,
        "MinAPIVersion": min_api,
        "Os": "linux",
    }
    parts = [_component("runc", info.runtime), _component("conmon", info.conmon)]
    return {
        "Platform": {"Name": f"Weft {info.version}"},
        "Components": [{"Name": "Engine", "Version": info.version, "Details": engine}, *parts],
        "Version": info.version,
        "ApiVersion": api,
        "MinAPIVersion": min_api,
        "GitCommit": "",
        "GoVersion": engine["GoVersion"],
        "Os": "linux",
        "Arch": architecture,
        "KernelVersion": info.kernel,
        "BuildTime": "",
    }


def _component(name: str, text: str) -> Json:
    """`text` is `runc 1.1.5` or `1.1.5`."""
    first, _, rest = text.partition(" ")
    return {"Name": first if rest else name, "Version": rest or first, "Details": {"GitCommit": ""}}


def info_json(
    info: HostInfo,
    swarm: Json,
    containers: dict[str, int],
    images: int,
    now: int,
    descriptors: int = 0,
) -> Json:
    """`containers`: number of containers by state (running, exited, ...). `descriptors`: open in
    the daemon."""
    running, paused = containers.get("running", 0), containers.get("paused", 0)
    total = sum(containers.values())
    return {
        "ID": info.engine_id,
        "Containers": total,
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": total - running - paused,
        "Images": images,
        "Driver": "overlay2",
        "DriverStatus": [],
        "Plugins": {
            "Volume": ["local"],
            "Network": ("bridge", "host", "null", "overlay"),
            "Authorization": None,
            "Log": list(log_options.OPTIONS),
        },
        **CAPABILITIES,
        "SwapLimit": info.swap_limit,
        "Debug": False,
        "NFd": descriptors,
        "OomKillDisable": info.cgroup_version == "1",
        "NGoroutines": 0,
        "SystemTime": rfc3339_fixed(now),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": info.cgroup_version,
        "NEventsListener": 0,
        **_system_json(info),
        **_registries_json(info.registries),
        "NCPU": info.cpus,
        "MemTotal": info.memory,
        "GenericResources": generic_json(info.generic) or None,
        "DockerRootDir": info.data_root,
        "Name": info.hostname,
        "Labels": [f"{key}={value}" for key, value in info.labels.items()],
        "ExperimentalBuild": False,
        "ServerVersion": info.version,
        "Runtimes": {"runc": {"path": "runc"}},
        "DefaultRuntime": "runc",
        "Swarm": swarm,
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "",
        "FirewallBackend": {"Driver": "nftables"},
        "SecurityOptions": _security_options(info),
        "CDISpecDirs": list(CDI_DIRECTORIES),
        "Warnings": list(info.warnings) or None,
        "StartedAt": rfc3339(info.started_at),
    }


def _registries_json(settings: RegistrySettings) -> Json:
    named = [text for text in settings.insecure if "/" not in text]
    mirrors = list(settings.mirrors)
    index = {
        name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False} for name in named
    }
    index[HUB] = {"Name": HUB, "Mirrors": mirrors, "Secure": True, "Official": True}
    return {
        "IndexServerAddress": INDEX_SERVER,
        "RegistryConfig": {
            "IndexConfigs": index,
            "InsecureRegistryCIDRs": [str(subnet) for subnet in settings.insecure_subnets],
            "Mirrors": mirrors or None,
        },
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
    }


def _system_json(info: HostInfo) -> Json:
    return {
        "KernelVersion": info.kernel,
        "OperatingSystem": info.operating_system,
        "OSVersion": info.os_version,
        "OSType": "linux",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": info.runtime_commit},
        "InitCommit": {"ID": ""},
        "Architecture": info.architecture,
    }


def _security_options(info: HostInfo) -> list[str]:
    """The means that confine containers, for `docker info`. Weft uses no SELinux labels and no user
    namespaces."""
    return [
        *(["name=apparmor"] if info.apparmor else []),
        *(["name=seccomp,profile=builtin"] if info.seccomp else []),
        *(["name=cgroupns"] if info.cgroup_version == "2" else []),
        f"name=overlay-encryption,profile={info.esp_engine or 'none'}",
    ]


def membership_json(
    membership: Membership, cluster: Cluster | None, nodes: int, managers: Sequence[str]
) -> Json:
    """`managers`: the swarm's managers, on a manager; a worker reports the managers that it
    knows."""
    remotes = [{"NodeID": id, "Addr": address} for id, address in membership.managers]
    body: Json = {
        "NodeID": membership.node or "",
        "NodeAddr": membership.address,
        "LocalNodeState": membership.state,
        "ControlAvailable": cluster is not None,
        "Error": membership.error,
        "RemoteManagers": remotes or None,
    }
    if cluster is not None:
        body |= {"Nodes": nodes, "Managers": len(managers), "Cluster": cluster_info_json(cluster)}
        if len(managers) == 2:
            body["Warnings"] = [
                "WARNING: Running Swarm in a two-manager configuration. This configuration provides"
                " no fault tolerance, and poses a high risk to lose control over the cluster."
            ]
    return body
