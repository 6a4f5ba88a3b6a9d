"""`micro_batch_size: auto`: the largest micro-batch that fits into the memory of every device of a run."""
