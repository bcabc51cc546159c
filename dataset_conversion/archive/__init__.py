"""Finds cases in folders of volumes and slices, and reads them."""
