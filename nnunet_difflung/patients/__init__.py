"""Who the patients of a dataset are."""
