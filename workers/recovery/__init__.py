"""Restarts the process of a stage that dies while its neighbours go on; no message is lost or handled twice.

Rollback recovery with sender-based message logging (Johnson and Zwaenepoel 1987; Elnozahy et al. 2002, "A
survey of rollback-recovery protocols in message-passing systems"). Sent messages lie in shared memory anyway:

    rank 1, supervisor       rank 1, stage                          rank 2, stage
    StableStorage, fork ---> journal: 7 handled
    waits                    receives 8 from rank 0
                             logs 8 in the send log, sends 8 -----> receives 8
                             killed                                 end of file: goes on while it can
    fork again ------------> weights of the last checkpoint
                             journal: 7 handled; receives 8 again
                             connects, sends 8 of the send log ---> knows 8: dropped, released
                             handles 8, sends 8 again -----------> dropped, released
                             journal: 8 handled; releases 8
                             9 ... ------------------------------> 9 ...

Every message is stamped with the number of the message of stage 0's stream that caused it, by which a
receiver recognises it. A receiver releases a message when its journal says that it was handled; until then
the sender keeps it, in memory of the sender's supervisor. So any stages may die, also two neighbours at once.
Lost are only the updates since the checkpoint, and they are counted.

    atomic_buffer         bytes that survive a writer that is killed at any moment
    send_log              slots, and the messages in flight in them
    journal               which messages the stage has handled; stage 0's input, numbered and journaled
    stable_storage        all of these for one stage, and the sockets at which its neighbours connect
    reconnecting_channel  channels over connections that break and are made again, and their sending end
    reconnecting_receiver their receiving end
    dialing               how a sender connects; tcp_dial between hosts, where links are cut
    tcp_reception         how a receiver between hosts takes the newest connection
    supervisor            starts the stage's process, and starts it again
"""
