"""The two built-in corpora."""
