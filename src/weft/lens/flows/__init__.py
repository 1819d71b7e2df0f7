"""Connections of all nodes, put together and shown."""
