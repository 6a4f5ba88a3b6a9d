"""Weight files of vision towers, and the preprocessing that belongs to them."""
