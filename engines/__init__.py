"""Networks on a device: bundles, back ends, what a run costs."""
