"""One question's answer: text read on top of a past that stays what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from ..config import PruneConfig
from ..transfer import on_host, upload
from .generation import Decoding
from .ingest import counts, ingest
from .past import Past
from .reader import Reader
from .stats import timed


class Answer:
    """Reads a question behind a past, in a fork of its cache, and decodes what follows.

    Args:
        reader: of the session.
        past: what the question is about; frames that wait are seen, the last repeated to fill their step.
        question: plain text.
        decoding: how tokens are chosen.
        config: what to drop of the frames that wait.
        seconds: wall time by stage, added to.

    Attributes:
        counts: what the statistics count of the frames that waited, should they be remembered.
    """

    def __init__(
        self,
        reader: Reader,
        past: Past,
        question: str,
        decoding: Decoding,
        config: PruneConfig,
        seconds: dict[str, float],
    ) -> None:
        self._reader, self._decoding, self._seconds = reader, decoding, seconds
        self._question, self._config = question, config
        self._given = replace(past, cache=past.cache.fork())
        self._ids: list[int] = []
        self.counts: dict[str, int] = {}

    def pieces(self) -> Iterator[str]:
        """The answer's text in pieces, none of which ends inside of a character."""
        decode = self._reader.adapter.processor.tokenizer.decode
        sent = text = ""
        for _ in self._tokens():
            text = decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if text.startswith(sent) and len(text) > len(sent) and not text.endswith("\ufffd"):
                yield text[len(sent) :]
                sent = text
        if len(text) > len(sent):
            yield text[len(sent) :]

    @on_host
    def remembered(self) -> Past:
        """The past with this turn in it, after the last piece."""
        decode = self._reader.adapter.processor.tokenizer.decode
        text = decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if len(self._ids) > self._read:  # the last token was chosen, and not read yet
            self._next(torch.tensor(self._ids[-1:]))
        past = replace(self._past, waiting=None if self._past.waiting is None else self._past.waiting[:0])
        ids = [*self._asked.tolist(), *self._ids]
        told = self._reader.talk.retold(text)
        return self._reader.remembered(past, self._cache, self._question, ids, told)

    def _tokens(self) -> Iterator[int]:
        """The answer's token ids, each also in `_ids`; one that ends it is not among them."""
        with timed(self._seconds, "answer"):
            logits = self._begin()
            seen = self._seen(logits.device)
        for n in range(self._decoding.max_new_tokens):
            with timed(self._seconds, "answer"):
                if n:
                    logits = self._next(seen[-1:])
                    self._read += 1
                token = self._decoding.choose(logits, seen)
                seen = torch.cat([seen, upload(torch.tensor([token]), seen.device)])
            if token in self._decoding.eos:
                return
            self._ids.append(token)
            yield token

    @on_host
    def _begin(self) -> torch.Tensor:
        """(V,) logits behind the question."""
        self._past = self._flushed(self._given)
        self._cache = self._past.cache
        self._at = self._reader.end(self._past)
        video = self._past.cursor is not None
        self._asked = self._reader.talk.question(self._past.turns, self._question, video)
        self._read = 0
        return self._next(self._asked)

    @on_host
    def _next(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self._reader.read_text(self._cache, ids, self._at)
        self._at += len(ids)
        return self._reader.adapter.logits(hidden[-1:])[0]

    def _flushed(self, past: Past) -> Past:
        """With the waiting frames in it, the last of them repeated to fill their step."""
        assert past.waiting is not None
        if not len(past.waiting):
            return past
        missing = self._reader.adapter.frames_per_step - len(past.waiting)
        repeated = past.waiting[-1:].repeat(missing, axis=0)
        ((flushed, pruned),) = ingest([self._reader], [past], [repeated], self._config, {}, missing)
        self.counts = {} if pruned is None else counts(pruned)
        return flushed

    @on_host
    def _seen(self, device: torch.device) -> torch.Tensor:
        """(L,) what a repetition penalty looks at: the ids of all text that was read, and one for the video."""
        video, said = self._reader.adapter.visual_token_id, sorted(self._past.said)
        return upload(torch.cat([self._reader.talk.opening, torch.tensor([video, *said]), self._asked]), device)
