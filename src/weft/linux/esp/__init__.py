"""The userspace ESP engine: a process of its own beside the daemon, for kernels without ESP.
`client.py` is all that others use.

daemon     client.py ── control.py over a UNIX socket ──┐
engine     process.py ── ledger.py, datapath.py ── tap.py, pump.py ── weft/esp in Python, or helper.py with esp.c
"""
