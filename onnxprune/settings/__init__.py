"""What can be asked for: the words, the values, points and sweeps."""
