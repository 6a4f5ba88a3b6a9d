"""Frames with their times: from folders, animations, videos, pipes and cameras."""
