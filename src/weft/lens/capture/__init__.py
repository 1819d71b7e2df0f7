"""Captured packets: in order, as a file that other programs read, or a line each."""
