"""Recordings with and without a run's sound, outside of its evaluation."""
