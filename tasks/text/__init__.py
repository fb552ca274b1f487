"""Language models of characters and words.

corpus ─► language (settings, vocabulary, scores) ─┬─► through_time   trained over time, in one process
                └─► byte_pairs (BPE) ──────────────┼─► layered        in layers, which can be cut into stages
                                                   └─► gpt            a transformer
"""
