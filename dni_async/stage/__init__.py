"""A stage as a pure state machine, and a simulation of several."""
