"""Processes, threads, devices, locks, signals, files; nothing in it is about lungs or datasets."""
