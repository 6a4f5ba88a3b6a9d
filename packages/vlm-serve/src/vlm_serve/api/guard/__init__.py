"""What stands between the network and the interface: keys, limits, origins, and the sources of images."""
