"""How the processes of a job find each other and agree.

rendezvous    who takes part, and the store in which ranks publish small values
signing       values in the store that strangers cannot forge
heartbeat     signs of life in the store
collectives   gather and broadcast among all ranks
"""
