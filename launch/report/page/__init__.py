"""report.html: one page, without a network, over one run or many.

```
recorded_run ─► curves, stages, timeline_figure ─► document ─► report.html
                    figures by plotly                 tables, styles and script in one file
```
"""
