"""How a model becomes a list of layers, and how layers are divided into stages.

from_module   layers of an existing model, split at names of its submodules: module_trace ─► graph_split ─►
              module_layer ─► same_result

costs   seconds of every layer and every rule, by a clock that is handed in  ┐
flops   ... or by counted floating-point operations                          ├─► cut   the best division
"""
