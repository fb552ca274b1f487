"""Tasks over time: a recurrent core reads sequences in windows of T steps.

base ◄─ curriculum ◄─ copying (copy, repeat copy)
     ◄─ last_step  ◄─ adding, argmax
stateful ◄─ two_timescale: a task in layers, whose recurrent layers keep their state between batches
"""
