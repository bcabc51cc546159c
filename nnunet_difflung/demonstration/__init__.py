"""The whole chain on a chest phantom, small enough for a laptop."""
