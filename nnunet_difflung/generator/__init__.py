"""The networks: their batches, training, sampling and files."""
