"""Options, parsed and checked: groups of settings, and the configuration of each command made of them.

command_line ─► train, compare, plan, recurrent ─► groups: task, optimizer, partition, runtime, recovery
─► flat (one namespace for all groups), checks
"""
