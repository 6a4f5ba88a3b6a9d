"""Shapes of a scan: padding to what vectors read, and the division of time into parts."""
