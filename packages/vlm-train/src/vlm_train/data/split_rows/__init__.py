"""A dataset divided into training and held-out rows, so that no image is in both."""
