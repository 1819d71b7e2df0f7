"""Decides which node a task runs on, or why none can."""
