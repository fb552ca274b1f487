"""A stage's process may die and be started again while its neighbours go on: what outlives it, and how.

Rollback recovery with sender-based message logging (Johnson and Zwaenepoel 1987; Elnozahy et al. 2002, "A
survey of rollback-recovery protocols in message-passing systems"), where sent messages lie in shared memory
anyway:

    rank 1, supervisor       rank 1, stage                          rank 2, stage
    makes StableStorage, forks ---> journal: 7 handled
    waits                    recv 8 from rank 0
                             log 8 in the send_log, send 8 ---------> recv 8
                             killed                                 end of file: away; goes on while it can
    forks again -----------> weights of the last checkpoint
                             journal: 7 handled; 8 comes again
                             connects, sends 8 of the send_log -----> 8 was taken: dropped, released
                             handles 8, sends 8 again ------------> dropped, released
                             journal: 8 handled, releases 8
                             9 ... ------------------------------->  9 ...

Every message carries the number of the message of stage 0's stream that it comes of, so whoever has taken it
knows it again. A message is released when the journal says that it was handled, and its sender keeps it until
then, in memory of the sender's supervisor. So whoever dies, also two neighbours at once: every message is
handed on once and lost never. What is lost is what the stage has learned since the checkpoint, and counted.

    cell       bytes that survive a writer who is killed at any moment
    send_log     slots and what flies in them
    journal    how far the stage has come
    stable     all of these for one stage, and the sockets at which its neighbours find it
    lasting    ends of channels over connections that come and go
    respawn    the supervisor
"""
