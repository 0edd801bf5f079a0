"""The loss of samples, as a module for any training loop: the Hugging Face Trainer's, or one of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..config import PruneConfig
from ..streaming.memory import Memory
from .layout import IGNORED, Composer, Config, Sample

KINDS = ("threshold", "budget")


def carriers_only(config: PruneConfig) -> PruneConfig:
    """The configuration under which carriers are all that a model sees of a video (VideoScan's first stage)."""
    return replace(config, keep_tokens=0, scope="frame", max_tokens=None, keyframe_interval=None)


@dataclass(frozen=True)
class Drawn:
    """Pruning that is drawn anew for each sample, evenly: training for any rate at which a stream may be pruned.

    Args:
        kind: "threshold": of the temporal cosine (DTD, arXiv 2504.17343). "budget": of a frame's tokens, which share
            is kept.
        low, high: bounds, in [-1, 1] for a threshold, in [0, 1] for a budget.

    Raises:
        ValueError: naming the argument.
    """

    kind: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        least = -1 if self.kind == "threshold" else 0
        if not least <= self.low <= self.high <= 1:
            raise ValueError(f"low and high must rise within [{least}, 1], got {self.low} and {self.high}")

    @classmethod
    def parse(cls, text: str) -> Drawn:
        """Of "threshold:LOW,HIGH" or "budget:LOW,HIGH". Raises ValueError."""
        kind, _, bounds = text.partition(":")
        try:
            low, high = (float(each) for each in bounds.split(","))
        except ValueError:
            raise ValueError(f"pruning must be drawn as threshold:LOW,HIGH or budget:LOW,HIGH, got {text!r}") from None
        return cls(kind, low, high)

    def config(self, base: PruneConfig, area: int) -> PruneConfig:
        """`base` with what was drawn by torch's own random numbers, for steps of `area` tokens."""
        value = self.low + (self.high - self.low) * float(torch.rand(()))
        if self.kind == "threshold":
            return replace(base, temporal_threshold=value, keep_tokens=None)
        return replace(base, keep_tokens=round(value * area), scope="frame", max_tokens=None)


class Learner(torch.nn.Module):
    """A model with the layout of its samples. Its state is the weights that learn, so that checkpoints are small.

    Args:
        model: of a supported family, or a peft model of one; its weights are trained in place.
        processor: the model's.
        config: what is dropped; in training mode `augment` may change it.
        memory: what stays of the frames; by default "carriers".
        augment: pruning drawn in training mode; None: none.
        system: the system text; None leaves it to the chat template.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        config: PruneConfig,
        memory: Memory | None = None,
        *,
        augment: Drawn | None = None,
        system: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(config, PruneConfig):
            raise TypeError(f"config must be a PruneConfig, got {type(config).__name__}")
        if not isinstance(augment, Drawn | None):
            raise TypeError(f"augment must be a Drawn or None, got {type(augment).__name__}")
        self.model = model
        self.compose = Composer(model, processor, memory, system)
        self.pruning, self.augment = config, augment
        self.register_state_dict_post_hook(_keep_what_learns)

    def forward(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Each sample in a forward of its own.

        Returns:
            "loss": () the samples' mean of the mean cross entropy of the answer's tokens, in float32. "right": (B,)
            bool, whether every token of the answer, its end included, is the likeliest one: whether greedy decoding
            would give this answer.
        """
        if not len(samples):
            raise ValueError("samples must be at least one, got none")
        told = [self._told(sample) for sample in samples]
        losses, right = zip(*told, strict=True)
        return {"loss": torch.stack(losses).mean(), "right": torch.stack(right)}

    def _told(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        logits, labels = self.logits(sample)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        return loss, (logits.argmax(-1) == labels).all()

    def logits(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        """((n, V), (n,) int64): from what the n tokens of the answer are chosen, and their ids."""
        inputs, adapter = self.compose(sample, self._config()), self.compose.adapter
        hidden = adapter.forward(inputs.embeds, inputs.positions, None, inputs.mask, inputs.deepstack)
        at = (inputs.labels != IGNORED).nonzero().flatten()
        return adapter.logits(hidden[(at - 1).to(hidden.device)]), inputs.labels[at].to(hidden.device)

    def learn(self, tower: bool) -> None:
        """Freezes all weights but those of the language model and, with `tower`, of what makes visual tokens.

        Of a peft model its LoRA weights learn, of another one all. Embeddings of text count as the language model.
        """
        language, base = self.compose.adapter.language_model, self.compose.adapter.model
        lora = base is not self.model
        own = {id(weight) for part in (language, base.get_output_embeddings()) for weight in part.parameters()}
        for name, weight in self.model.named_parameters():
            weight.requires_grad_((tower or id(weight) in own) and ("lora_" in name or not lora))

    @torch.no_grad()
    def accuracy(self, samples: Any) -> float:
        """The share of answers, in [0, 1], that greedy decoding would give; of a dataset that has a length.

        Nothing is drawn, whatever the mode.
        """
        training = self.training
        if not len(samples):
            raise ValueError("samples must be at least one, got none")
        self.eval()
        try:
            return sum(bool(self([samples[n]])["right"]) for n in range(len(samples))) / len(samples)
        finally:
            self.train(training)

    def _config(self) -> Config:
        augment, config = self.augment, self.pruning
        if augment is None or not self.training:
            return config
        return lambda area: augment.config(config, area)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Raises ValueError for weights that are not those that learn."""
        own = {name: value.shape for name, value in self.state_dict().items()}
        given = {name: value.shape for name, value in state_dict.items()}
        if own != given:
            name = min(name for name, _ in own.items() ^ given.items())
            raise ValueError(
                f"state_dict must hold the weights that learn: {name} is {_shape(own, name)} here and "
                f"{_shape(given, name)} there"
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)._replace(missing_keys=[])


def _keep_what_learns(learner: torch.nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    names = {prefix + name for name, value in learner.named_parameters() if value.requires_grad}
    for name in [name for name in state if name.startswith(prefix) and name not in names]:
        del state[name]


def _shape(shapes: Mapping[str, torch.Size], name: str) -> str:
    return str(tuple(shapes[name])) if name in shapes else "missing"
