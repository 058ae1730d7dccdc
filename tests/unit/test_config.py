from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raypipe.cli import main
from raypipe.config import Config
from raypipe.config_toml import as_config, load_config, settings
from raypipe.errors import UsageError


def test_defaults_survive_toml(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(Config().to_toml())
    assert load_config(file) == Config()


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[train]\nepochs = 7\nseed = 3\n")
    config = load_config(file, ["train.epochs=9", "model.preset=paper"])
    assert (config.train.epochs, config.train.seed, config.model.preset) == (9, 3, "paper")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("train.epoch=9", r"train\.epoch: no such setting; is it train\.epochs\?"),
        ("trian.epochs=9", r"trian: no such section; is it train\?"),
        ("train.xyzzy=9", "raypipe settings lists"),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs=0", "train.epochs"),
        ("epochs=9", "section.key=value"),
        ("train.epochs", "section.key=value"),
    ],
)
def test_a_wrong_setting_is_named(override: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        load_config(overrides=[override])


def test_earlier_names_of_limits_on_requests_are_accepted() -> None:
    given = ["ingest.http_timeout_s=7", "ingest.http_deadline_s=70", "ingest.retries=0"]
    ingest = load_config(overrides=given).ingest
    assert (ingest.silence_s, ingest.answer_s, ingest.attempts) == (7, 70, 1)
    with pytest.raises(UsageError, match="retries is the earlier name of attempts"):
        load_config(overrides=["ingest.retries=1", "ingest.attempts=2"])
    with pytest.raises(UsageError, match=r"ingest\.attempts"):
        load_config(overrides=["ingest.retries=many"])


def test_limits_on_requests_have_the_same_names_and_sentences_everywhere() -> None:
    for name in "attempts", "backoff_s", "silence_s", "answer_s":
        of_discover, of_ingest = (
            re.search(rf"((?:# .*\n)+){name} = ", settings(section))
            for section in ("discover", "ingest")
        )
        assert of_discover is not None
        assert of_ingest is not None
        assert of_discover[1] == of_ingest[1]


def test_unreadable_files_are_usage_errors(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[train\n")
    with pytest.raises(UsageError, match="not TOML"):
        load_config(broken)
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(tmp_path / "absent.toml")


def test_verbs_take_mappings() -> None:
    assert as_config({"embed": {"refine_steps": 0}}).embed.refine_steps == 0
    assert as_config(None) == Config()


def test_every_setting_is_described() -> None:
    for name, section in Config.model_fields.items():
        for key, field in section.annotation.model_fields.items():  # type: ignore[union-attr]
            assert field.description, f"{name}.{key}"


def test_settings_are_toml_that_config_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    chosen = load_config(overrides=["train.epochs=7", "train.use_gpu=false", "ingest.cache_mb=9"])
    for config in Config(), chosen:
        file.write_text(settings(config=config))
        assert load_config(file) == config


def test_settings_say_each_key_with_its_description_and_limits() -> None:
    text = settings()
    for name, section in Config.model_fields.items():
        assert f"[{name}]\n" in text
        for key in section.annotation.model_fields:  # type: ignore[union-attr]
            assert re.search(rf"^(# )?{key} = |^\[{name}\.{key}\]", text, re.MULTILINE), key
    assert "# Number of latents per spectrum. (at least 1 and at most 8)\nlatents = 8\n" in text
    assert "(chip | exact)" in text


def test_settings_of_one_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "plan", "--set", "plan.sample=3"]) == 0
    listed = capsys.readouterr().out
    assert "sample = 3\n" in listed
    assert "[ingest]" not in listed
    assert main(["settings", "plna"]) == 2
    assert "no such section; is it plan?" in capsys.readouterr().err


def test_a_reader_that_closes_the_pipe_early_ends_a_verb_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = "import sys; from raypipe.cli import main; sys.exit(main(['settings']))"
    with os.fdopen(writer, "wb") as pipe:
        ended = subprocess.run([sys.executable, "-c", command], stdout=pipe, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr == b""


def test_a_configuration_shows_what_differs_from_the_defaults() -> None:
    assert repr(Config()) == "Config(defaults)"
    chosen = load_config(overrides=["train.epochs=7", "discover.tap_url=http://me:pw@tap/x"])
    assert repr(chosen) == "Config(discover.tap_url='http://tap/x', train.epochs=7)"
