"""One rank of a job, from its configuration to its last message.

rank_job ─► restart, resume ─► start ─► partition_plan ─► context ─► the engine ─► stage_factory, checkpoints
"""
