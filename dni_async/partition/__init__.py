"""How a list of layers is divided into stages.

costs   seconds of every layer and every rule, by a clock that is handed in  ┐
flops   ... or by counted floating-point operations                          ├─► cut   the best division
"""
