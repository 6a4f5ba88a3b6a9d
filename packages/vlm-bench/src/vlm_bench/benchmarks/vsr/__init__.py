"""VSR: true or false statements on where objects are."""
