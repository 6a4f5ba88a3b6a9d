"""States of language models as files, and caches of states in memory and on disk."""
