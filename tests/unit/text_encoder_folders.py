"""Small text encoders of the sentence-transformers layout, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

WORDS = [
    "[UNK]",
    "a",
    "an",
    "heavily",
    "weakly",
    "absorbed",
    "soft",
    "hard",
    "agn",
    "star",
    "binary",
    "with",
    "iron",
    "line",
]


def _write_tokenizer(folder: Path) -> None:
    words = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_static(folder: Path, size: int = 8) -> np.ndarray:
    """Write static embeddings, and return the vectors of `WORDS`."""
    at = folder / "0_StaticEmbedding"
    _write_tokenizer(at)
    vectors = np.random.default_rng(0).standard_normal((len(WORDS), size)).astype(np.float32)
    save_file({"embedding.weight": vectors}, at / "model.safetensors")
    modules = [{"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": "StaticEmbedding"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return vectors


def write_bert(folder: Path, width: int = 16, layers: int = 2) -> dict[str, np.ndarray]:
    """Write a BERT with mean pooling, and return its weights."""
    _write_tokenizer(folder)
    rng = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return (0.3 * rng.standard_normal(shape)).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": some(len(WORDS), width),
        "embeddings.position_embeddings.weight": some(32, width),
        "embeddings.token_type_embeddings.weight": some(2, width),
        "embeddings.LayerNorm.weight": 1 + some(width),
        "embeddings.LayerNorm.bias": some(width),
    }
    for layer in range(layers):
        for name, out, into in (
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", 2 * width, width),
            ("output.dense", width, 2 * width),
        ):
            weights[f"encoder.layer.{layer}.{name}.weight"] = some(out, into)
            weights[f"encoder.layer.{layer}.{name}.bias"] = some(out)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights[f"encoder.layer.{layer}.{name}.weight"] = 1 + some(width)
            weights[f"encoder.layer.{layer}.{name}.bias"] = some(width)
    save_file(weights, folder / "model.safetensors")
    config = {"model_type": "bert", "num_hidden_layers": layers, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return weights
