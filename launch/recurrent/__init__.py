"""Tasks over time, trained in one process.

train            windows of truncated BPTT, validation, test
weights          the trained model on disk
text_generator   continues a text with a trained language model
"""
