"""Synthetic gradients through time, for recurrent networks.

through_time         truncated BPTT whose windows end in a predicted gradient
bootstrap            the predictor at the end of a window, and the control with permuted predictions
calibration          shrinks predictions by their recent correlation with the targets
core                 any recurrent module as a function of a window and one state tensor
stateful_rnn         the same inside a layer of a stage, which keeps its state from batch to batch
gradient_injection   adds a gradient during the backward of that layer
auxiliary_task       the paper's auxiliary task: predict the gradient at the end of a window
"""

from dni_async.recurrent.through_time import ThroughTime as ThroughTime
