"""What a node is without a swarm: its sandboxes and their network, names, images, containers and
events."""
