"""Ring 2: certificates and join tokens. Keys, serial numbers and the time are arguments; nothing is
kept and nothing is logged."""
