"""``difflung_augment`` as a library: the stages of a fold, from its plan to its report."""
