"""Ring 2: what the cluster should run. Each loop is a pure function from the swarm's state to a
`Decision`.

Level-triggered: a loop looks at what is, never at what happened; running it again on its own result
changes nothing. The loops do not call each other, they meet in the store: orchestrator (tasks) →
allocator (addresses) → scheduler (nodes) → dispatcher.
"""
