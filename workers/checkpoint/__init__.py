"""CheckpointStore on disk."""
