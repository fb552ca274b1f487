"""One SG network at work.

    h, y ──► synthesizer.predict ──► gradient       (h, y) ──► pending
    target ─► scale ─► synthesizer.take ◄── (h, y) ── pending: one training step of the SG network

`agreement` compares predictions with targets; `oracle` replaces the network by exact gradients.
"""
