"""The camera client."""
