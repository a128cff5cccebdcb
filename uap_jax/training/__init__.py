"""Training of the victim networks."""
