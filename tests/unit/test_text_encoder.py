"""Text encoders are read from folders of the sentence-transformers layout, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from raypipe.alignment.text_encoder import read_text_encoder
from raypipe.errors import UsageError
from tests.unit.text_encoder_folders import WORDS, write_bert, write_static

TEXTS = ["a heavily absorbed agn", "star", "an iron line", None, "star"]


def test_static_embeddings_are_the_mean_of_their_words(tmp_path: Path) -> None:
    vectors = write_static(tmp_path / "static")
    encoder = read_text_encoder(tmp_path / "static")
    found = encoder.encode(["star", "iron line", None])
    assert found.shape == (3, 8)
    star, iron, line = (vectors[WORDS.index(word)] for word in ("star", "iron", "line"))
    assert found[0] == pytest.approx(star / np.linalg.norm(star), abs=1e-5)
    both = iron + line
    assert found[1] == pytest.approx(both / np.linalg.norm(both), abs=1e-5)
    assert np.isnan(found[2]).all()


def test_bert_is_what_torch_computes_with_the_same_weights(tmp_path: Path) -> None:
    weights = write_bert(tmp_path / "bert")
    encoder = read_text_encoder(tmp_path / "bert")
    ids = [WORDS.index(word) for word in ["a", "heavily", "absorbed", "agn"]]
    expected = _by_torch(weights, ids)
    found = encoder.encode(TEXTS)
    assert found[0] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-4)
    # The others of a batch, and their padding, change nothing.
    assert encoder.encode(["star"])[0] == pytest.approx(found[1], abs=1e-5)
    assert found[4] == pytest.approx(found[1])


def _by_torch(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Pool the last layer of torch's own encoder layers."""
    at = "embeddings"
    x = (
        weights[f"{at}.word_embeddings.weight"][ids]
        + weights[f"{at}.position_embeddings.weight"][: len(ids)]
        + weights[f"{at}.token_type_embeddings.weight"][0]
    )
    norm = nn.LayerNorm(16, eps=1e-12)
    norm.load_state_dict(_pair(weights, f"{at}.LayerNorm"))
    hidden = norm(torch.from_numpy(x))[None]
    for number in range(2):
        at = f"encoder.layer.{number}"
        layer = nn.TransformerEncoderLayer(
            16, 4, 32, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        ).eval()
        parts = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        state = {
            "self_attn.in_proj_weight": np.concatenate([weights[f"{p}.weight"] for p in parts]),
            "self_attn.in_proj_bias": np.concatenate([weights[f"{p}.bias"] for p in parts]),
        }
        for own, theirs in (
            ("self_attn.out_proj", "attention.output.dense"),
            ("linear1", "intermediate.dense"),
            ("linear2", "output.dense"),
            ("norm1", "attention.output.LayerNorm"),
            ("norm2", "output.LayerNorm"),
        ):
            for end in ("weight", "bias"):
                state[f"{own}.{end}"] = weights[f"{at}.{theirs}.{end}"]
        layer.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        hidden = layer(hidden)
    return np.asarray(hidden[0].mean(0).detach().numpy())


def _pair(weights: dict[str, np.ndarray], at: str) -> dict[str, torch.Tensor]:
    return {end: torch.from_numpy(weights[f"{at}.{end}"]) for end in ("weight", "bias")}


def _other_kind(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "mpnet"}))


def _max_pooling(folder: Path) -> None:
    options = {"pooling_mode_max_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(options))


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut_off(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _without_a_layer(folder: Path) -> None:
    save_file({"embeddings.LayerNorm.weight": np.ones(4)}, folder / "model.safetensors")


def _damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def _leads_out(folder: Path) -> None:
    (folder / "modules.json").write_text(json.dumps([{"path": "../other", "type": ""}]))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_other_kind, "type 'mpnet'; bert and static embeddings are read"),
        (_max_pooling, "pooling is pooling_mode_max_tokens"),
        (_pickle, "pytorch_model.bin is a pickle, which is never read"),
        (_cut_off, "not a text encoder that can be read"),
        (_without_a_layer, "not a text encoder that can be read"),
        (_damaged_tokenizer, "not a tokenizer that can be read"),
        (_leads_out, "leads out of the folder"),
    ],
)
def test_folders_that_cannot_be_read_are_refused(tmp_path: Path, harm: Any, message: str) -> None:
    write_bert(tmp_path / "bert")
    harm(tmp_path / "bert")
    with pytest.raises(UsageError, match=message):
        read_text_encoder(tmp_path / "bert")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_text_encoder(tmp_path / "nowhere")
