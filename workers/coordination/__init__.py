"""How the processes of a job meet and agree."""
