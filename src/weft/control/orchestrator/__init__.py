"""Decides how many tasks there are, of which version, and which run or stop."""
