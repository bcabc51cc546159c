"""Changes a dataset all or nothing; records and undoes the change."""
