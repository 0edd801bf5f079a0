"""Streaming token pruning and semantic carriers for video VLMs."""

from .config import PruneConfig
from .pruner import StreamPruner, prune, prune_padded
from .result import PaddedPruneResult, PruneResult
from .state import StreamState

__version__ = "0.1.0"
__all__ = [
    "PaddedPruneResult",
    "PruneConfig",
    "PruneResult",
    "StreamPruner",
    "StreamState",
    "prune",
    "prune_padded",
]
