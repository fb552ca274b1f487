"""What trains: decoupled stages, and the baselines that they are compared with.

registry ─┬─► decoupled                        stages that never wait for each other
          └─► baseline_loop ◄─ backprop, ddp, independent, pipelining (micro_batches), wrapper
"""
