"""When units are removed, and a point in the making."""
