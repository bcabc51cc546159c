"""The report of ``difflung_augment`` for people: one HTML page about a method's synthetic cases in a dataset."""
