"""Ring 2: decides what the cluster should run. Each control loop is a pure function from the
swarm's state to a `Decision`.

The loops are level-triggered: a loop looks at the present state, not at what led to it; a second
run changes nothing. The loops do not call each other; they meet in the store: orchestrator (tasks)
→ allocator (addresses) → scheduler (nodes) → dispatcher.
"""
