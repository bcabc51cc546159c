"""Converts an archive to a dataset: mapping, patients, options, listing."""
