"""Corpora; all of them load as the same `Dataset`."""
