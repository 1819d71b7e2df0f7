"""Whole clusters in virtual time, with everything that can go wrong."""
