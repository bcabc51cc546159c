"""Reads volumes and pictures in the formats of archives."""
