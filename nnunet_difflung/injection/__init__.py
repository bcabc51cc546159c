"""Changes a dataset all or nothing; records, proves and undoes the change."""
