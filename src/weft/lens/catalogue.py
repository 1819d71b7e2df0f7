"""All metrics that there are: names, kinds, labels. docs/metrics.md explains them to people.

`engine_daemon_…` and `swarm_…` are Docker's and mean the same here; `weft_…` are for what Docker
has no metric for; `process_…` are those that Prometheus' own libraries give each process.

A label has only values of which there are few: states, codes, routes of the API, hosts, and objects
that an administrator has made (services, networks). Never tasks, containers or clients.
"""

from typing import Final

from weft.lens.page import Metric


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "counter", help, labels)


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "gauge", help, labels)


def _histogram(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "histogram", help, labels)


# --- the daemon's process

PROCESS_CPU: Final = _counter("process_cpu_seconds_total", "Processor time of the daemon.")
PROCESS_MEMORY: Final = _gauge("process_resident_memory_bytes", "Resident memory of the daemon.")
PROCESS_FILES: Final = _gauge("process_open_fds", "File descriptors that the daemon has open.")
PROCESS_START: Final = _gauge("process_start_time_seconds", "When the daemon began, since 1970.")

MISSING: Final = _gauge(
    "weft_metrics_missing_parts", "Parts of this page that could not be asked this time."
)

# --- the engine, under Docker's names

ENGINE_INFO: Final = _gauge(
    "engine_daemon_engine_info",
    "The engine and its system; always 1.",
    "version",
    "commit",
    "architecture",
    "graphdriver",
    "kernel",
    "os",
    "os_type",
    "os_version",
    "daemon_id",
)
ENGINE_CPUS: Final = _gauge("engine_daemon_engine_cpus_cpus", "Processors of the host.")
ENGINE_MEMORY: Final = _gauge("engine_daemon_engine_memory_bytes", "Memory of the host.")
CONTAINERS: Final = _gauge(
    "engine_daemon_container_states_containers", "Containers of the host.", "state"
)
CONTAINER_ACTIONS: Final = _histogram(
    "engine_daemon_container_actions_seconds", "How long actions on containers took.", "action"
)
NETWORK_ACTIONS: Final = _histogram(
    "engine_daemon_network_actions_seconds",
    "How long it took to connect tasks to their networks, and to release them.",
    "action",
)
HEALTH_CHECKS: Final = _counter("engine_daemon_health_checks_total", "Probes of health checks.")
HEALTH_CHECKS_FAILED: Final = _counter(
    "engine_daemon_health_checks_failed_total", "Probes that have failed."
)
HEALTH_CHECK_START: Final = _histogram(
    "engine_daemon_health_check_start_duration_seconds",
    "How long it took to start the commands of probes.",
)
EVENTS: Final = _counter("engine_daemon_events_total", "Events of `docker events`.")
EVENTS_SUBSCRIBERS: Final = _gauge(
    "engine_daemon_events_subscribers_total", "Clients that follow the events."
)

# --- the network of this host

NETWORK_ROUNDS: Final = _histogram(
    "weft_network_round_seconds",
    "How long the rounds took that make the kernel's network what it should be.",
)
NETWORK_OPERATIONS: Final = _counter(
    "weft_network_operations_total", "Changes of the kernel's network."
)
NETWORK_REPAIRS: Final = _counter(
    "weft_network_repairs_total", "Of these, changes that mended what others had changed."
)
NETWORK_FAILURES: Final = _gauge(
    "weft_network_failures", "Operations that failed in the last round and are tried again."
)
NETWORK_SANDBOXES: Final = _gauge("weft_network_sandboxes", "Sandboxes of tasks on this node.")
NETWORK_BEHIND: Final = _gauge(
    "weft_network_behind_seconds",
    "For how long something is desired of the network that was not done yet; 0 if there is"
    " nothing.",
)
VXLAN_BYTES: Final = _counter(
    "weft_vxlan_bytes_total",
    "Bytes of frames between this host and others.",
    "network",
    "direction",
)
VXLAN_PACKETS: Final = _counter(
    "weft_vxlan_packets_total", "Frames between this host and others.", "network", "direction"
)
VXLAN_DROPPED: Final = _counter(
    "weft_vxlan_dropped_packets_total",
    "Frames that were dropped, those for unknown addresses included.",
    "network",
    "direction",
)
PEER_ENDPOINTS: Final = _gauge(
    "weft_vxlan_peer_endpoints", "Addresses behind each other host, on the networks here.", "peer"
)
NAMES: Final = _counter(
    "weft_names_answers_total",
    "Answers of the containers' name servers.",
    "code",
    "source",
    "transport",
)
NAMES_SECONDS: Final = _histogram(
    "weft_names_seconds", "From a question's arrival to its answer.", "source"
)
ESP_PACKETS: Final = _counter(
    "weft_esp_packets_total",
    "Packets of encrypted networks by their fate; all but sealed and opened are failures.",
    "fate",
)
ESP_ASSOCIATIONS: Final = _gauge(
    "weft_esp_peers", "Hosts to which packets are encrypted; 0 without an encrypted network."
)
ESP_KEY_AGE: Final = _gauge(
    "weft_esp_key_age_seconds", "Age of the key that encrypts, if this node has one."
)
SERVICE_BACKENDS: Final = _gauge(
    "weft_service_backends",
    "Tasks that get new connections of a service's callers on a network.",
    "service",
    "network",
    "mode",
)
SERVICE_PORTS: Final = _gauge(
    "weft_service_published_ports", "Ports published in the routing mesh.", "service"
)

# --- this node in the swarm

NODE_INFO: Final = _gauge(
    "swarm_node_info", "This node in the swarm; always 1.", "swarm_id", "node_id"
)
NODE_MANAGER: Final = _gauge("swarm_node_manager", "1 if this node is a manager.")
SESSION: Final = _gauge("weft_session_connected", "1 if this node has a session with a manager.")
ASSIGNED: Final = _gauge(
    "weft_assignment_revision", "Revision of the assignment that the managers sent last."
)
APPLIED: Final = _gauge(
    "weft_assignment_applied_revision", "Revision of the assignment that this node's network is of."
)
ASSIGNED_TASKS: Final = _gauge("weft_assignment_tasks", "Tasks assigned to this node.")
CERTIFICATE_EXPIRES: Final = _gauge(
    "weft_certificate_expiry_seconds", "When this node's certificate expires, since 1970."
)

# --- a manager

NODES: Final = _gauge("swarm_manager_nodes", "Nodes of the swarm.", "state")
TASKS: Final = _gauge("swarm_manager_tasks_total", "Tasks in the store.", "state")
SERVICES: Final = _gauge("swarm_manager_services_total", "Services in the store.")
NETWORKS: Final = _gauge("swarm_manager_networks_total", "Networks in the store.")
SECRETS: Final = _gauge("swarm_manager_secrets_total", "Secrets in the store.")
CONFIGS: Final = _gauge("swarm_manager_configs_total", "Configs in the store.")
LEADER: Final = _gauge("swarm_manager_leader", "1 if this manager leads.")
SERVICE_TASKS: Final = _gauge(
    "weft_service_tasks", "Tasks of a service that run, and that should.", "service", "what"
)
COMMITS: Final = _histogram(
    "swarm_raft_transaction_latency_seconds", "How long commits of this manager took."
)
SCHEDULING_DELAY: Final = _histogram(
    "swarm_dispatcher_scheduling_delay_seconds", "From a task's creation to its running."
)
SESSIONS: Final = _gauge("weft_dispatcher_sessions", "Nodes with a session with this manager.")
BEHIND: Final = _gauge(
    "weft_dispatcher_behind", "Of these, nodes that were not sent their newest assignment yet."
)
HOST_ANSWERS: Final = _gauge(
    "weft_host_answers",
    "1 if the kernel of a node's host answers this manager's probes.",
    "hostname",
    "node_id",
)
LOOP_SECONDS: Final = _histogram(
    "weft_control_loop_seconds", "How long the runs of a control loop took.", "loop"
)
LOOP_WAITING: Final = _gauge(
    "weft_control_loop_waiting_events", "Events that a control loop has not acted on yet.", "loop"
)
LOOP_FAILURES: Final = _counter("weft_control_loop_failures_total", "Runs that failed.", "loop")
STORE_HEALTHY: Final = _gauge(
    "weft_store_healthy", "1 if commits can succeed: 0 without a majority of the managers."
)
STORE_REVISION: Final = _gauge("weft_store_revision", "Revision of the state at this manager.")
STORE_SIZE: Final = _gauge("weft_store_bytes", "Size of the store's file on this host.")
STORE_IN_USE: Final = _gauge("weft_etcd_in_use_bytes", "Bytes of that which hold something.")
ETCD_LEADER: Final = _gauge("weft_etcd_has_leader", "1 if this host's etcd member knows a leader.")
ETCD_FULL: Final = _gauge("weft_etcd_full", "1 if an etcd member has reached its quota.")

# --- the API of this host

REQUESTS: Final = _counter(
    "weft_api_requests_total",
    "Requests by route and status; code 0 if they ended without an answer.",
    "method",
    "route",
    "code",
)
REQUEST_SECONDS: Final = _counter(
    "weft_api_request_seconds_total",
    "Time that the answers took, streams included.",
    "method",
    "route",
)


ALL: Final = tuple(value for value in tuple(globals().values()) if isinstance(value, Metric))
"""In the order above."""
