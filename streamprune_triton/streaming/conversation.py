"""The text around a session's videos: what the chat template puts where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..models.base import Adapter

Turns = Sequence[dict[str, Any]]  # messages for a chat template, a user's and the assistant's in turn


def check_text(name: str, text: object) -> None:
    """Raises TypeError, ValueError where it is no text that a tokenizer takes."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        got = f"got {text[error.start]!r}, half of a pair, at {error.start}"
        raise ValueError(f"{name} must be of whole characters, {got}") from error


class Conversation:
    """One model's template under one system text.

    Args:
        adapter: of the model.
        system: the system text; None leaves it to the template.

    Attributes:
        opening: (L,) token ids in front of the first video.
    """

    def __init__(self, adapter: Adapter, system: str | None) -> None:
        self._adapter = adapter
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.opening = self._pieces((), "")[0]

    def before_video(self, turns: Turns) -> torch.Tensor:
        """(L,) ids in front of the next video, behind the turns so far."""
        return _behind(turns, lambda given: self._pieces(given, "")[-2])

    def question(self, turns: Turns, question: str, video: bool) -> torch.Tensor:
        """(L,) ids of a question and what the template puts around it, behind its video, or behind the last answer.

        Raises ValueError for a question that names a video itself.
        """
        if not video:
            content = [{"type": "text", "text": question}]
            return _behind(turns, lambda given: self._adapter.text(self._messages(given, content))[-1])
        pieces = self._pieces(turns, question, answer=True)
        if not turns and not torch.equal(pieces[0], self.opening):
            raise ValueError("question must not change the text before the video: the chat template makes it do so")
        return pieces[-1]

    def retold(self, answer: str) -> str:
        """An answer as a turn may hold it: nothing of one that spells a video's name, since all later text would have
        one video too many. The cache has it as it was read."""
        ids = self._adapter.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return "" if self._adapter.video_token_id in ids else answer

    @staticmethod
    def turn(question: str, answer: str, video: bool) -> Turns:
        """A question, with the video that came before it or without one, and its answer."""
        content = [{"type": "video"}] * video + [{"type": "text", "text": question}]
        return ({"role": "user", "content": content}, {"role": "assistant", "content": answer})

    def _pieces(self, turns: Turns, question: str, answer: bool = False) -> list[torch.Tensor]:
        content = [{"type": "video"}, {"type": "text", "text": question}]
        return self._adapter.text(self._messages(turns, content), answer)

    def _messages(self, turns: Turns, content: list[dict[str, str]]) -> list[dict[str, Any]]:
        return [*self._system, *turns, {"role": "user", "content": content}]


def _behind(turns: Turns, ids: Callable[[Turns], torch.Tensor]) -> torch.Tensor:
    """(L,) what the template puts behind the last answer: where texts with two other answers in its place agree.

    So what a template does to earlier turns does not matter: they are in the cache as they were read.
    """
    if not turns:
        return ids(turns)
    a, b = (ids([*turns[:-1], {**turns[-1], "content": letter}]).flip(0) for letter in "xy")
    length = min(len(a), len(b))
    same = int((a[:length] == b[:length]).int().cumprod(0).sum())
    return a[:same].flip(0)
