"""Train the small model that tests embed with: `python -m tests.make_bundle`.

Run it again where the format of bundles or the network changes, and put the figures that it prints
into `tests/unit/test_model_bundle.py`.
"""

from __future__ import annotations

import numpy as np
import torch

from raypipe._version import __version__
from raypipe.config_toml import load_config
from raypipe.model.bundle import FORMAT, Model, load_model, save_model
from raypipe.model.features import prepare
from raypipe.model.latent_population import Population
from raypipe.model.presets import build
from raypipe.spectra.grid import EnergyGrid
from raypipe.store.workspace import Workspace
from raypipe.training.batch_streams import ResidentStream
from raypipe.training.learner import Learner
from raypipe.training.quality import measure_quality
from tests.unit.model_spectra import power_laws

SETTINGS = {
    "model": {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16},
    "train": {"epochs": 30, "batch_size": 64, "learning_rate": 2e-3},
}
TRAIN, VALIDATION = 600, 200
SHOWN = ["z0", "z0_err", "z0_std", "cash", "cash_expected", "anomaly_score", "total_counts"]


def main() -> None:
    """Train on power laws, steep ones labeled YSO and flat ones AGN, and save the bundle."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = load_config(settings=SETTINGS)
    spectra, expected = power_laws(TRAIN, seed=1)
    train = ResidentStream(prepare(spectra))
    validation = ResidentStream(prepare(power_laws(VALIDATION, seed=2)[0]))
    network = build(config.model, EnergyGrid())
    learner = Learner(network, train, validation, config.train, most_shown=network.most_shown)
    for epoch in range(config.train.epochs):
        learner.run_epoch(epoch)
    learner.keep_best()
    with torch.no_grad():
        latents = torch.cat([network.encode(batch) for _, batch in train.sweep()])
    z = network.autoencoder.whiten(latents).double().numpy()
    softness = (expected[:, :64].sum(1) / expected.sum(1)).argsort().argsort()
    labels = np.where(softness < TRAIN // 2, "AGN", "YSO").astype(object)
    keys = np.arange(TRAIN, dtype=np.int64)
    model = Model(
        model_id=f"folded-format{FORMAT}",
        config=config,
        grid=network.grid,
        network=network,
        population=Population.fit(z, labels, keys, config.train.references, config.train.seed),
        train_sources=keys,
        validation_sources=np.arange(TRAIN, TRAIN + VALIDATION, dtype=np.int64),
        metrics={
            "model_id": f"folded-format{FORMAT}",
            "preset": "folded",
            "release": "power laws",
            "made_by": {"raypipe": __version__, "torch": torch.__version__},
            "epochs": len(learner.history),
            "best_epoch": learner.best_epoch,
            "validation_loss": learner.best_loss,
            "spectra": {"train": TRAIN, "validation": VALIDATION, "test": 0},
            "history": learner.history,
            "classes": {"AGN": TRAIN // 2, "YSO": TRAIN // 2},
            "quality": measure_quality(network, validation, config.embed.refine_steps),
        },
    )
    folder = f"bundle-format-{FORMAT}"
    save_model(model, Workspace("tests/data"), folder)
    columns = load_model(f"tests/data/{folder}").encode_batch(power_laws(3, seed=9)[0])
    print(columns[SHOWN].round(4).to_dict("list"))


if __name__ == "__main__":
    main()
