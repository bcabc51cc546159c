"""A plan becomes painted, judged and staged cases."""
