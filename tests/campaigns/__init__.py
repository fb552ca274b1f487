"""Attacks on whole jobs: many cases of one kind of fault, each with the result that it must have.

`python -m tests.campaigns` lists them. Every campaign is one file with a command for the long form; its short
form runs in the fast tests beside it.
"""
