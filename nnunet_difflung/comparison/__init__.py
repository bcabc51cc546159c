"""Table 2: Dice of nnU-Net's trainings with and without synthetic cases."""
