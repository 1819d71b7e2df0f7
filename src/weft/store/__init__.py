"""Ring 3: the store, which keeps the state of the swarm. One interface, several engines."""
