"""The folder that nnU-Net searches for this package's trainers; it must hold no other module."""
