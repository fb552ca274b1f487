"""What a stage is made of, as nested dicts, and consistent cuts through all stages."""
