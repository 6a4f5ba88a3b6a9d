"""Bodies of requests: which fields exist, which values they may have, and where a wrong one is."""
