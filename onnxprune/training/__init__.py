"""Training and fine-tuning of networks of PyTorch, and what it costs."""
