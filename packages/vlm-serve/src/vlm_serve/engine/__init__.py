"""The engine of a server: requests, what prepares and answers them, and the processes that own a model."""
