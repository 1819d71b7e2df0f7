"""Which node a task runs on, or the reason why none."""
