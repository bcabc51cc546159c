"""Shows people the synthetic cases of a dataset: the report as one HTML page, and blind readings."""
