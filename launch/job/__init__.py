"""One rank of a job, from its configuration to its last message."""
