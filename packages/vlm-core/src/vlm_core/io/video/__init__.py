"""Video files to frames: containers by signature, sampled times, exact frames by seeking; nothing else is opened."""
