"""How a process ends when something goes wrong, and how the user is told."""
