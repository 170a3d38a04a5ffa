"""What the tests share: starting servers, talking to them, looking at processes."""
