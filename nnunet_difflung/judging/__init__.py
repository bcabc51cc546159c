"""Judges painted images against real ones: the gate, memorisation, edges, continuity along z, and selection."""
