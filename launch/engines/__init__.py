"""What can train: decoupled stages, and the baselines that they are measured against."""
