"""Tar shards in the webdataset layout: members, samples and their index."""
