"""The pruning step in plain PyTorch: the specification that the kernels are tested against, and the CPU path.

Shapes: T frames of H x W tokens with D features.
"""

from .decision import candidates, decide, redundancies
from .scores import Scores, dot, score
from .step import Pruned, prune

__all__ = ["Pruned", "Scores", "candidates", "decide", "dot", "prune", "redundancies", "score"]
