"""The order of training rows: shuffling, mixing of datasets, length grouping, and the rows of each step."""
