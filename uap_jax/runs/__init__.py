"""One attack, from the corpus to the report."""
