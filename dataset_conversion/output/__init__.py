"""Writes nnU-Net raw datasets, completely or not at all, and reports on their content."""
