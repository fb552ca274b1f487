"""Predicts how fast every engine would be with more stages, for `launch.plan`.

measure ─► profile ─► stage_costs, footprint ─► simulator ─► predict ─► check (real runs)
"""
