"""What a run leaves behind: records, tables, plots and files."""
