"""Starts the ranks of a job on this machine, without torchrun.

launcher     starts one process per stage with torch's elastic launcher, and reports their failure
rank_main    what each process runs
rendezvous   the store in which they meet, on the loopback interface only
wan          emulated hosts that are joined by a slow link

comparison             the jobs of launch.compare and launch.sweep, one after the other
comparison_output      the folder of both: checked at the start, written and shown at the end
bench_commands         the commands of launch.bench
"""
