"""How importance is judged: one file a family of criteria."""
