"""Checkpoints of others become bundles: reading them safely, their names in our networks, the preview they lack."""
