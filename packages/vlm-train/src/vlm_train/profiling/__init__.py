"""A few real steps of each stage on the device at hand, for `--measure`: time, rates and peak memory."""
