"""Handlers that the servers under test are given."""
