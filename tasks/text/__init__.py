"""Language models of characters and words.

corpus ─► language (settings, vocabulary, scores) ─┬─► through_time   trained over time, in one process
                                                   ├─► layered        in layers, which can be cut into stages
                                                   └─► gpt            a transformer (transformer, rotary)
"""
