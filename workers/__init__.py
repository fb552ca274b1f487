"""Processes: everything with a thread, a clock, a socket or a file.

coordination ─► runtime (one event loop per stage) ◄──► transport (channels to the neighbours)
failure: how a rank ends    checkpoint: sets of files    recovery: a stage that may be restarted
"""
