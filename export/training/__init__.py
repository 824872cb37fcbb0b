"""Training: pictures, stages, the loop, checkpoints, validation."""
