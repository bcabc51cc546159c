"""An nnU-Net dataset on disk, and its checked cases as arrays."""
