"""Paints the planned cases of a fold, has them judged, and stages those that are kept."""
