"""Streaming token pruning and semantic carriers for video VLMs."""

from . import models
from .config import PruneConfig
from .memory import Memory
from .pruner import StreamPruner, prune, prune_padded
from .result import PaddedPruneResult, PruneResult
from .session import StreamingSession
from .state import StreamState

__version__ = "0.1.0"
__all__ = [
    "Memory",
    "PaddedPruneResult",
    "PruneConfig",
    "PruneResult",
    "StreamPruner",
    "StreamState",
    "StreamingSession",
    "models",
    "prune",
    "prune_padded",
]
