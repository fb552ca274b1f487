"""A stage as a pure state machine: `Stage.on(message)` yields messages.

Activation ─────► stage ─► training_step   forward, the rule's gradient, backward, update
TargetGradient ─► stage ─► the rule        learns; or training_step resumes a batch that waited
Marker ─────────► stage ─► markers         evaluation, checkpoint, stop
                           counters        what a stage counts, saves and restores
simulation: all stages of a network in one process, in an order of delivery that the caller chooses
"""
