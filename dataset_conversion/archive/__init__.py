"""Finds the patients in folders of volumes or slices, and reads their files."""
