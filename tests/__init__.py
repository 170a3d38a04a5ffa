"""What forkserve promises, each promise as a test."""
