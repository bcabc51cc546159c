"""Processes, threads, devices, locks, signals, files, messages; no dataset."""
