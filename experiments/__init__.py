"""Runs behind docs/results.md and its pages; each file is a command or what several of them share."""
