"""Tables of a sweep: their kinds, their files, and how methods are compared."""
