"""Predicts how fast every engine would be with more stages, for `launch.plan`.

measure ─► profile ─► predict (footprint: bytes) ─► simulator ─► check: real runs beside the prediction
"""
