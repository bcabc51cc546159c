"""Table 2: what nnU-Net's trainings are worth with and without synthetic cases."""
