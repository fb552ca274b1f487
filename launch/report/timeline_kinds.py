"""Kinds of event in a timeline: their names and colours in every picture."""

from __future__ import annotations

KINDS = {
    "forward": ("forward", "#3f78c9"),
    "backward": ("backward", "#e8833a"),
    "update": ("update", "#3d9e6d"),
    "sg": ("SG training", "#8e5fb8"),
    "head": ("auxiliary head", "#c9a227"),
    "send": ("send", "#566270"),
    "load": ("load batch", "#a8b7c7"),
    "evaluate": ("evaluate", "#c8b560"),
    "checkpoint": ("checkpoint", "#b0566f"),
    "wait": ("wait", "#e4e7eb"),
}
"""Kind of event: (name in the legend, colour)."""
