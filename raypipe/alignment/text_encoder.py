"""Encode texts by the model in a folder of the sentence-transformers layout, without that package.

Two architectures can be read, both from safetensors and never from pickles: BERT, which returns the
mean over the tokens or the first token (such as all-MiniLM-L6-v2), and static embeddings, which
return the mean of the tokens' vectors (Model2Vec and StaticEmbedding). The package `tokenizers`
splits texts into tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn import functional

from raypipe.errors import UsageError

Float32 = npt.NDArray[np.float32]
Tensors = dict[str, npt.NDArray[Any]]

_MOST_BYTES = 1 << 31
_ROWS_AT_ONCE = 64
_MOST_TOKENS = 512
_WEIGHTS = "model.safetensors"
_STATIC_NAMES = ("embeddings", "embedding.weight")
_POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}


@dataclass(frozen=True)
class TextEncoder:
    """Hold an encoder of texts, the folder from which it was read, and a hash of its files."""

    folder: str
    fingerprint: str
    size: int
    _tokenizer: Any
    _model: _Static | _Bert

    def encode(self, texts: Sequence[str | None]) -> Float32:
        """Encode texts as unit vectors (n, size); NaN where a text is None."""
        vectors = np.full((len(texts), self.size), np.nan, np.float32)
        # Equal texts, such as captions of the detections of one source, are encoded once, and
        # texts of similar length together.
        different = sorted({text for text in texts if text is not None}, key=len)
        known: dict[str, Float32] = {}
        for start in range(0, len(different), _ROWS_AT_ONCE):
            batch = different[start : start + _ROWS_AT_ONCE]
            tokens = [each.ids[:_MOST_TOKENS] for each in self._tokenizer.encode_batch(batch)]
            with torch.no_grad():
                made = functional.normalize(self._model.encode(tokens), dim=1).numpy()
            known.update(zip(batch, made, strict=True))
        for row, text in enumerate(texts):
            if text is not None:
                vectors[row] = known[text]
        return vectors


def read_text_encoder(folder: str | os.PathLike[str]) -> TextEncoder:
    """Read a text encoder; raises UsageError if the folder holds none that can be read."""
    root = Path(folder)
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError(
            "a text encoder needs the package tokenizers: pip install 'raypipe[text]'"
        ) from error
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give one of the sentence-transformers layout")
    modules = _modules(root)
    at = root / str(modules[0].get("path", ""))
    weights = at / _WEIGHTS
    tokens = next(
        (p for p in (at / "tokenizer.json", root / "tokenizer.json") if p.is_file()), None
    )
    if not weights.is_file() or tokens is None:
        pickled = " (pytorch_model.bin is a pickle, which is never read)" * any(
            at.glob("pytorch_model.bin")
        )
        raise UsageError(f"{root}: a text encoder needs {_WEIGHTS} and tokenizer.json{pickled}")
    if weights.stat().st_size > _MOST_BYTES:
        raise UsageError(f"{weights}: larger than {_MOST_BYTES >> 30} GiB")
    try:
        tensors = load_file(weights)
        tokenizer = Tokenizer.from_file(str(tokens))
        model = _build(root, at, modules, tensors)
    except UsageError:
        raise
    except (SafetensorError, LookupError, ValueError, TypeError) as error:
        raise UsageError(f"{root}: not a text encoder that can be read ({error})") from error
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise UsageError(f"{tokens}: not a tokenizer that can be read ({error})") from error
    tokenizer.no_padding()
    digest = hashlib.sha256(weights.read_bytes() + tokens.read_bytes()).hexdigest()
    return TextEncoder(str(root), digest, model.size, tokenizer, model)


def _modules(root: Path) -> list[dict[str, Any]]:
    """Read the list of modules; a folder without one has its model at the top."""
    file = root / "modules.json"
    found = _read_json(file) if file.is_file() else [{"path": "", "type": ""}]
    if not isinstance(found, list) or not found or not all(isinstance(e, dict) for e in found):
        raise UsageError(f"{file}: not a list of modules")
    for each in found:
        path = Path(str(each.get("path", "")))
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(f"{file}: a module's path leads out of the folder")
    return found


def _build(
    root: Path, at: Path, modules: list[dict[str, Any]], tensors: Tensors
) -> _Static | _Bert:
    static = next((name for name in _STATIC_NAMES if name in tensors), None)
    if static is not None:
        return _Static.of(tensors, static)
    config = _read_json(at / "config.json") if (at / "config.json").is_file() else {}
    kind = str(config.get("model_type", "unknown"))
    if kind != "bert":
        raise UsageError(
            f"{root}: a text encoder of type {kind[:40]!r}; bert and static embeddings are read. "
            "Encode the texts elsewhere, and give their vectors as a column of lists"
        )
    pooling = next((m for m in modules if str(m.get("type", "")).endswith(".Pooling")), None)
    options = _read_json(root / str(pooling["path"]) / "config.json") if pooling else {}
    modes = [mode for key, mode in _POOLING.items() if options.get(key)]
    others = [k for k, on in options.items() if k.startswith("pooling_mode") and on is True]
    if pooling and (len(modes) != 1 or len(others) != 1):
        raise UsageError(f"{root}: its pooling is {', '.join(others)}; mean or first token is read")
    return _Bert.of(config, tensors, modes[0] if modes else "mean")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: not readable JSON ({error})") from error


@dataclass(frozen=True)
class _Static:
    """Hold a vector and a weight per token; `rows` maps tokens to vectors."""

    vectors: Tensor
    rows: Tensor
    weights: Tensor

    @property
    def size(self) -> int:
        return int(self.vectors.shape[1])

    @classmethod
    def of(cls, tensors: Tensors, name: str) -> _Static:
        vectors = torch.from_numpy(tensors[name].astype(np.float32))
        number = len(tensors.get("mapping", vectors))
        rows = torch.from_numpy(tensors.get("mapping", np.arange(number)).astype(np.int64))
        weights = torch.from_numpy(tensors.get("weights", np.ones(number)).astype(np.float32))
        if (
            vectors.ndim != 2
            or len(weights) != len(rows)
            or not 0 <= int(rows.max()) < len(vectors)
        ):
            raise ValueError("its vectors, mapping and weights do not fit each other")
        return cls(vectors, rows, weights)

    def encode(self, tokens: list[list[int]]) -> Tensor:
        """Return the weighted mean of each text's vectors, (n, size)."""
        return torch.stack([self._mean(torch.tensor(each, dtype=torch.int64)) for each in tokens])

    def _mean(self, ids: Tensor) -> Tensor:
        if not len(ids):
            return torch.zeros(self.size)
        return (self.vectors[self.rows[ids]] * self.weights[ids, None]).mean(0)


@dataclass(frozen=True)
class _Bert:
    """Hold the weights of a BERT encoder by their names, with its sizes."""

    weights: dict[str, Tensor]
    layers: int
    heads: int
    epsilon: float
    positions: int
    pooling: str

    @property
    def size(self) -> int:
        return int(self.weights["embeddings.word_embeddings.weight"].shape[1])

    @classmethod
    def of(cls, config: dict[str, Any], tensors: Tensors, pooling: str) -> _Bert:
        if config.get("hidden_act", "gelu") != "gelu":
            raise ValueError(f"its activation is {config['hidden_act']}, gelu is read")
        weights = {
            name.removeprefix("bert."): torch.from_numpy(np.ascontiguousarray(value)).float()
            for name, value in tensors.items()
            if np.issubdtype(value.dtype, np.floating)
        }
        made = cls(
            weights,
            int(config["num_hidden_layers"]),
            int(config["num_attention_heads"]),
            float(config.get("layer_norm_eps", 1e-12)),
            min(_MOST_TOKENS, len(weights["embeddings.position_embeddings.weight"])),
            pooling,
        )
        if not 0 < made.layers <= 48 or made.heads < 1 or made.size % made.heads:
            raise ValueError("its layers and heads do not fit its width")
        return made

    def encode(self, tokens: list[list[int]]) -> Tensor:
        """Return the pooled vectors of texts, (n, size)."""
        tokens = [each[: self.positions] or [0] for each in tokens]
        longest = max(map(len, tokens))
        ids = torch.zeros(len(tokens), longest, dtype=torch.int64)
        there = torch.zeros(len(tokens), longest, dtype=torch.bool)
        for row, each in enumerate(tokens):
            ids[row, : len(each)] = torch.tensor(each)
            there[row, : len(each)] = True
        x = self._look_up("word", ids) + self._look_up("position", torch.arange(longest))
        x = self._normalize(
            x + self._look_up("token_type", torch.tensor(0)), "embeddings.LayerNorm"
        )
        for layer in range(self.layers):
            x = self._layer(x, there, f"encoder.layer.{layer}")
        if self.pooling == "first":
            return x[:, 0]
        weight = there[..., None].float()
        return (x * weight).sum(1) / weight.sum(1)

    def _layer(self, x: Tensor, there: Tensor, at: str) -> Tensor:
        n, length, width = x.shape
        q, k, v = (
            self._linear(x, f"{at}.attention.self.{name}")
            .reshape(n, length, self.heads, width // self.heads)
            .transpose(1, 2)
            for name in ("query", "key", "value")
        )
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None, :])
        seen = seen.transpose(1, 2).reshape(n, length, width)
        out = self._linear(seen, f"{at}.attention.output.dense")
        x = self._normalize(x + out, f"{at}.attention.output.LayerNorm")
        hidden = functional.gelu(self._linear(x, f"{at}.intermediate.dense"))
        out = self._linear(hidden, f"{at}.output.dense")
        return self._normalize(x + out, f"{at}.output.LayerNorm")

    def _look_up(self, what: str, ids: Tensor) -> Tensor:
        return self.weights[f"embeddings.{what}_embeddings.weight"][ids]

    def _linear(self, x: Tensor, at: str) -> Tensor:
        return functional.linear(x, self.weights[f"{at}.weight"], self.weights[f"{at}.bias"])

    def _normalize(self, x: Tensor, at: str) -> Tensor:
        weight, bias = self.weights[f"{at}.weight"], self.weights[f"{at}.bias"]
        return functional.layer_norm(x, x.shape[-1:], weight, bias, self.epsilon)
