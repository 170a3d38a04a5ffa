"""Servers of other packages, each adopted as its user would."""
