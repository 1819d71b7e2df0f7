"""Networking for clusters of containers."""
