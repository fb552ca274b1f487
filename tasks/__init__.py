"""What is trained: models and data, without processes.

base         the interface of a task in layers       registry     tasks by name or dotted path
vision/      images                                  settings     --task-args as types, and their checks
text/        language models                         data_files   where data files are, and safe reading
sequence/    tasks over time, and their interface    splits       validation samples set aside
contiguous   batches whose rows continue those of the batch before
"""
