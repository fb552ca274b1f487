"""Where the numbers of a run go beside metrics.jsonl (--log).

base       what a logger is                       registry   loggers by name, and what is wrong with them
scalars    the numbers of a record, by name       fan_out    all loggers of a run; one that fails is left out
csv_file, tensorboard, wandb, trackio             the loggers; a user may name one of their own
"""
