"""Many attacks: manifests, trials, tables, reports."""
