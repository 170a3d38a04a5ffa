"""Measure forkserve beside its peers, on this machine, in one run."""
