"""The whole: how the parts of one host's daemon are put together, and its role in the swarm."""
