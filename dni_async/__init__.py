"""The algorithm of decoupled neural interfaces: pure, in one process, no transport and no clock."""
