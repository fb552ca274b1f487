"""Jobs whose ranks are started on this machine, without torchrun."""
