"""CPU-fast forms of layers, each with its plain form beside it."""
