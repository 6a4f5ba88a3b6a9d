"""Files of foreign origin: bounded reading, atomic writing, manifests, images, JSON and YAML."""
