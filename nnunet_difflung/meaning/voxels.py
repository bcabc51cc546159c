"""How large the voxels of a CT can be."""

SMALLEST, LARGEST = 0.01, 100.0  # mm; those of a CT are neither smaller nor larger
