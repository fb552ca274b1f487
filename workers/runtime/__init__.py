"""What runs in the process of one stage.

transport ─► sequence_check ─► loop ─► the stage ─► loop ─► transport     channels, endpoints: what loop joins
device, precision, compilation: how layers run        probe, emulation: where the time goes
gpu_probe, warm_up; accelerator, cuda: streams, events and copies of a device that works in its own time
fault_injection: failures on purpose
"""
