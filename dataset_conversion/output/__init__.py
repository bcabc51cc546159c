"""Writes nnU-Net raw datasets, whole or not at all, and a report of what is in them."""
