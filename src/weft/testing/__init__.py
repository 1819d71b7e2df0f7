"""Fakes that behave: whole peers in memory, for tests and for the simulated cluster."""
