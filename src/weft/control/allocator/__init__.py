"""Gives out subnets, VNIs, addresses and published ports; each has one holder."""
