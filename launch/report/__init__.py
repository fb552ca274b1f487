"""What a run leaves behind: records, tables, plots and files.

markers ─► recorder ─► run_record (metadata, training_loss, timeline) ─► files, weights
                    └► progress: what the terminal shows meanwhile
tables     text ─► grid ─► run_table, comparison_table (comparison_rows), sweep_table, plan_table,
           window_tables
plots      figure ─► timeline_plot, curves_plot, comparison_plot, sweep_plot, plan_plot   trace: for Perfetto
evaluation: names of metrics and sets           bench_sections: what `launch.bench` measures
links: bytes and utilisation of the links       machine_load: whether other programs kept cores busy
"""
