"""The swarm's worker: makes the engine run what the manager assigned, and tells the manager what
became of it."""
