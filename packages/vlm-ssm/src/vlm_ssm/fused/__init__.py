"""A whole Mamba layer as one registered operation with a hand-written gradient."""
