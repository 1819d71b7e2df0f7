"""Counters of all nodes as rates, on one screen."""
