"""What labels and values of a dataset mean, and whether a file holds all of them."""
