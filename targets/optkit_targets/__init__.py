"""The built-in targets, one folder a family."""
