"""Launchers; what they call is the library."""
