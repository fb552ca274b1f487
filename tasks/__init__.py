"""What is trained: models and data, without processes.

base       the interface of a task in layers      registry     tasks by name or dotted path
vision/    images                                 splits       validation samples set aside
text/      language models                        contiguous   batches whose rows continue each other
sequence/  tasks over time, and their interface
"""
