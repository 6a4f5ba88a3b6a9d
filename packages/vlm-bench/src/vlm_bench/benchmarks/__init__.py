"""One module a benchmark: `add_arguments` declares its files, `run` reads, joins and scores them."""
