"""Runs behind the tables in docs/results.md; each file is a command or what several of them share."""
