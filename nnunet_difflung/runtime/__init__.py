"""Processes, threads, devices, locks, signals, files: knows no lung and no dataset."""
