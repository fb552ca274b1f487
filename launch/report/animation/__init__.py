"""An animated SVG of recorded runs: how batches, updates and gradients move through the stages.

```
timeline ─► scene: work, messages and updates in a few steps ─► clip: one run ─► svg: the whole picture
```
"""
