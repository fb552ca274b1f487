"""Options, parsed and checked: groups of settings, and the configuration of each command made of them.

command_line ─► train, compare (job), plan, recurrent, windows ─► groups: task, optimizer, partition, runtime,
recovery, output ─► flat (one namespace for all groups), checks
"""
