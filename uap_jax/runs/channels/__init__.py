"""The channels of a run: settings, the table of results, how a sound arrives."""
