"""The bench: what synthetic cases are worth on real CT, by number of patients with the rare class."""
