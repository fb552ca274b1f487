"""The state of a stage as nested dicts, and consistent cuts through all stages.

module_state   layers with a state of their own or with numbers to report
state_dict     state of layers, optimizer and random numbers: tensors and JSON values, no pickle
checkpoint     parts of all stages as of one batch; dividing them for another number of stages
"""
