"""MME: perception and cognition, yes/no questions in pairs."""
