"""Channels between stages: every transport keeps the contract of `base`.

connect ─► registry ─► shm_link (to shm), dist_link (to dist), tcp, rpc: each has a Transport of `links`
dist        dist_groups, lanes (the stream of one end on a GPU); nccl is dist from GPU to GPU
shm         packets, slots, pool, shm_sender, shm_receiver
tcp         addresses, tcp_listener, handshake, tcp_socket, tcp_sender, tcp_receiver
queues      between threads, as in dist, rpc and memory         cuda_copies   between slots and a GPU
wire        a message as bytes          compression   fewer of them          forwarding   ends around ends
in_flight   how many messages a link needs                      link_benchmark, link_cost   of a message
"""
