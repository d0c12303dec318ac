"""The commands: each parses its options, calls, and prints."""
