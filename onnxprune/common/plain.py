"""Values as JSON has them."""

import math
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Dataclasses that became dictionaries, named tuples and paths in plain types; None for what is not finite."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
