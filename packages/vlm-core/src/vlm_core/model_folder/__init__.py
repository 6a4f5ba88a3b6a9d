"""Model folders: building, saving, verifying and loading; weights in safetensors files."""
