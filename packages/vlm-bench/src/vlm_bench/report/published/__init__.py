"""Published figures of the paper and of its peers, with their sources."""
