"""What a comparison makes of its runs: rows, tables and a picture."""
