"""What `launch.plan` is made of: costs are measured, engines predicted, predictions shown and checked."""
