"""Converters: one file per public dataset, and a chest-CT phantom generated on the spot."""
