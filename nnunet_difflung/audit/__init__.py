"""Checks from the files that nothing of a fold's validation patients has reached its training."""
