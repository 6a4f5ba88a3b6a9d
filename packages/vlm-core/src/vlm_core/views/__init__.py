"""What an image gives the model: its views (tiles and overview), and the order of their tokens in the sequence."""
