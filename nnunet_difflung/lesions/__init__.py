"""New lesion masks: what fits where, and which are needed."""
