"""The userspace ESP engine, for kernels without ESP: a separate process beside the daemon. Other
packages use only `client.py`.

daemon     client.py ── control.py over a UNIX socket ──┐
engine     process.py ── ledger.py, datapath.py ── tap.py, pump.py ── weft/esp in Python, or helper.py with esp.c
"""
