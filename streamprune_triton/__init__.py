"""Streaming token pruning and semantic carriers for video VLMs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import compat, models
from .config import PruneConfig
from .masks import semantic_mask
from .pruned import pruned
from .pruner import StreamPruner, prune, prune_padded
from .result import PaddedPruneResult, PruneResult
from .state import StreamState
from .streaming.feed import FrameQueue
from .streaming.memory import Memory
from .streaming.session import StreamingSession

if TYPE_CHECKING:
    from . import training, video
    from .cache import CarrierCache

__version__ = "0.1.0"
__all__ = [
    "CarrierCache",
    "FrameQueue",
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
    "pruned",
    "semantic_mask",
    "training",
    "video",
]


def __getattr__(name: str) -> Any:
    if name == "CarrierCache":  # a transformers cache: imported when it is asked for
        from .cache import CarrierCache

        return CarrierCache
    if name in ("training", "video"):  # what they need comes with extras
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
