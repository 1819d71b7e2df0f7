"""Puts the parts of one host's daemon together, and follows the node's role in the swarm."""
