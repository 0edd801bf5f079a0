"""`pruned`: a Hugging Face video VLM whose own generate() and forward() drop visual tokens."""

from .context import pruned
from .hooks import Report

__all__ = ["Report", "pruned"]
