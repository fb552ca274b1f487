"""Processes: transports, the event loop, devices, rendezvous, supervision."""
