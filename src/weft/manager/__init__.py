"""Ring 4: the manager of a swarm: the control loops, the sessions of the agents, and the operations
of the API on swarm objects."""
