"""The engine: what a node is without a swarm. Sandboxes and their network, names, images,
containers and events."""
