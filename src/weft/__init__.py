"""Networking for clusters of containers, driven by the docker command."""

VERSION = "0.1.0"
