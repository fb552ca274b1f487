"""One SG network at work: predict, remember, and learn from the late target."""
