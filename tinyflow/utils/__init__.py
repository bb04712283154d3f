"""What torch has under ``torch.utils``."""

from __future__ import annotations

from tinyflow.utils import checkpoint as checkpoint

__all__ = ["checkpoint"]
