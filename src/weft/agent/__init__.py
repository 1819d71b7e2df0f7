"""The agent of a node: makes the engine run what a manager assigned, and reports the results to the
manager."""
