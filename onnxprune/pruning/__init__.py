"""What is removed of networks of PyTorch: criteria, masks, shrinking, recovery."""
