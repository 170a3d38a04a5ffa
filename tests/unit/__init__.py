"""White-box tests: each file is the specification of one module."""
