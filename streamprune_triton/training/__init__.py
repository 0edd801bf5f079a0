"""Training under what a session does: carriers, the semantic-aware mask, pruned tokens; of any supported family.

| | |
|---|---|
| layout | a question about a clip and its answer, as a session would read them, for one forward |
| learner | the loss of such samples, as a module for any training loop |
| weights | LoRA on a model, how its weights are held and saved |
| data | samples from a JSONL file, or of generated clips |
"""

from .data import Shapes, Videos
from .layout import Composer, Inputs, Sample
from .learner import Drawn, Learner, carriers_only
from .weights import add_lora, checkpoint_activations, hold_in_bf16, merged, save

__all__ = [
    "Composer",
    "Drawn",
    "Inputs",
    "Learner",
    "Sample",
    "Shapes",
    "Videos",
    "add_lora",
    "carriers_only",
    "checkpoint_activations",
    "hold_in_bf16",
    "merged",
    "save",
]
