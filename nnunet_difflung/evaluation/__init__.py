"""Table 1: how synthetic images compare with real ones."""
