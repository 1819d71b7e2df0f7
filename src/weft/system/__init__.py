"""Functions of the operating system that every adapter needs. This package knows no adapter and
makes no decisions."""
