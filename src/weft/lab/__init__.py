"""A cluster of hosts on one machine: each host is a set of namespaces with a daemon of its own.
Start reading in `lab.py`."""
