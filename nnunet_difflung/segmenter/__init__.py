"""A small segmentation network for a fold's real cases, which says what it recognises in patients that it never saw."""
