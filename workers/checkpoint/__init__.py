"""Checkpoints on disk.

store         the sets of files in the folder of a run
manifest      what makes files a set, and whether it may be used
state_file    one stage's state as a safetensors file
atomic_file   files that are written whole or not at all
"""
