"""How a rank ends when something goes wrong: one line for the user, an exit status, a traceback in a file.

errors         exceptions that end a rank; exit status and line of any error
signals        SIGINT, SIGTERM and the death of the parent process
interruption   a signal during training: the run ends early and writes its results
users_code     the place in the user's code that an error comes from
failure_file   the line, for the launcher and for restarted ranks (without torch)
report         which rank's line is printed, and by whom
rank_runner    runs a rank's work and handles its failure
"""
