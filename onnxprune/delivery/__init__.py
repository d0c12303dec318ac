"""From a finished sweep to a model that is shipped; no PyTorch."""
