"""Texts to vectors whose products say how alike the texts are.

N. Reimers and I. Gurevych, "Sentence-BERT", EMNLP 2019: the mean of the last layer's states, scaled
to length 1. The weights are integers of 8 bits, the arithmetic is in floats and in one thread, so
the same texts give the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
import tokenizers
from numpy.typing import NDArray

from agentbus.errors import ModelBroken

from .locate import Files

__all__ = ["Embedder", "Vectors"]

Vectors = NDArray[np.float32]

_LONGEST: Final = 256
"""Tokens of a text that are read: more than any unit has words, and what the model was made for."""
_BATCH: Final = 4
"""Texts of one run; more take longer for each."""
_SIZE: Final = 384


class Embedder:
    """A loaded model."""

    def __init__(self, tokenizer: Any, session: Any) -> None:
        self._tokenizer = tokenizer
        self._session = session

    @classmethod
    def load(cls, files: Files) -> Embedder:
        """Load the model.

        Raises:
            ModelBroken: a file is not what it should be.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = files.vocabulary
        # The libraries raise what they like, plain Exception among it.
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
            tokenizer.enable_truncation(_LONGEST)
            tokenizer.no_padding()
            path = files.weights
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelBroken(str(path), str(error)) from error
        return cls(tokenizer, session)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return a vector of length 1 for each text."""
        # The tokenizer takes no lone surrogates.
        whole = [text.encode(errors="replace").decode() for text in texts]
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(whole)]
        vectors = np.zeros((len(texts), _SIZE), np.float32)
        # Texts of like lengths share a run, since each is padded to the longest.
        by_length = sorted(range(len(texts)), key=lambda place: len(ids[place]))
        for start in range(0, len(texts), _BATCH):
            places = by_length[start : start + _BATCH]
            vectors[places] = self._run([ids[place] for place in places])
        return vectors

    def _run(self, batch: Sequence[Sequence[int]]) -> Vectors:
        ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
        mask = np.zeros_like(ids)
        for row, some in enumerate(batch):
            ids[row, : len(some)] = some
            mask[row, : len(some)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states,) = self._session.run(["last_hidden_state"], feeds)
        sums = (states * mask[..., None].astype(np.float32)).sum(axis=1)
        lengths: Vectors = np.linalg.norm(sums, axis=1, keepdims=True)
        vectors: Vectors = sums / lengths
        return vectors
