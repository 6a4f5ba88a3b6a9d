"""RefCOCO, RefCOCO+ and RefCOCOg: the box of the object that an expression refers to."""
