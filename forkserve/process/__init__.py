"""Processes: fork them, watch over them, collect them."""
