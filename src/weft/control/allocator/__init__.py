"""Subnets, VNIs, addresses and published ports, each held once."""
