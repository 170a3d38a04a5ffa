"""What forkserve endures: long trials under load, with their figures."""
