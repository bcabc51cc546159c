"""Turns a plan into painted, checked and staged cases."""
