"""A row's conversation: its turns, its images and where they stand."""
