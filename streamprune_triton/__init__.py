"""Streaming token pruning and semantic carriers for video VLMs."""

from . import compat, models
from .config import PruneConfig
from .pruner import StreamPruner, prune, prune_padded
from .result import PaddedPruneResult, PruneResult
from .state import StreamState
from .streaming.memory import Memory
from .streaming.session import StreamingSession

__version__ = "0.1.0"
__all__ = [
    "Memory",
    "PaddedPruneResult",
    "PruneConfig",
    "PruneResult",
    "StreamPruner",
    "StreamState",
    "StreamingSession",
    "compat",
    "models",
    "prune",
    "prune_padded",
]
