"""What is on disk: steps done once, their records, tables, trackers; no PyTorch."""
