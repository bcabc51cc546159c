"""Plans new lesion masks: which lesions a fold needs, and where they fit."""
