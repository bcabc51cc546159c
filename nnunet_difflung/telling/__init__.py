"""What a run of ``difflung_augment`` found, in sentences for people and in keys for scripts."""
