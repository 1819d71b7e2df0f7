"""Ring 3: where the state of the swarm is kept. One interface, several engines."""
