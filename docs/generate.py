"""Write the reference pages from the code, each time the documentation is built."""

from __future__ import annotations

from pathlib import Path

import raypipe
from raypipe.catalog.schema import known_columns
from raypipe.config_toml import settings

RETURNED_CLASSES = [
    "raypipe.model.bundle.Model",
    "raypipe.model.encode.Reconstruction",
    "raypipe.searching.latent_search.LatentSearch",
    "raypipe.describing.description.Description",
    "raypipe.describing.description.Descriptions",
]
"""Classes that users get from functions, and do not import."""

SINGLE_FILE_READERS = ["raypipe.ogip.read_pha", "raypipe.ogip.read_arf", "raypipe.ogip.read_rmf"]


def write_reference(folder: Path) -> None:
    """Write settings.md, columns.md and api.md to a folder."""
    folder.mkdir(exist_ok=True)
    for name, text in (
        ("settings", settings_page()),
        ("columns", columns_page()),
        ("api", api_page()),
    ):
        (folder / f"{name}.md").write_text(text)


def settings_page() -> str:
    """Show what `raypipe settings` prints."""
    return f"""# Settings

`raypipe settings` prints this list. Save it to a file, change values, and pass the file with
`--config`; or change single settings with `--set section.key=value`.

```toml
{settings()}```
"""


def columns_page() -> str:
    """Show unit, UCD and description of each column."""
    rows = [
        f"| `{name}` | {column.unit} | {column.ucd.replace(';', '; ')} | {column.description} |"
        for name, column in known_columns().items()
    ]
    head = r"""# Columns

Units are VOUnits and UCDs are UCD1+; every file carries them. Names with parentheses are patterns:
`z(\d)` stands for `z0`, `z1`, ..., and `{0}` in a description for the part in parentheses.

| column | unit | UCD | description |
|---|---|---|---|
"""
    return head + "\n".join(rows) + "\n"


def api_page() -> str:
    """Show the docstring of each public name."""
    homes = {name: home for name, home in raypipe.public_names().items() if name != "Config"}
    readers = "\n".join(map(_entry, SINGLE_FILE_READERS))
    classes = "\n".join(map(_entry, RETURNED_CLASSES))
    entries = "\n".join(_entry(f"{home}.{name}") for name, home in sorted(homes.items()))
    return f"""# Python API

Import these names from `raypipe`. Every verb of the command line is a function; its `config` is a
`raypipe.Config`, a nested mapping, or the path of a TOML file with [settings](settings.md).

{entries}
## Classes that these functions return

`load_model` returns a Model, whose `reconstruct` returns a Reconstruction; `open_search` returns a
LatentSearch.

{classes}
## Read single OGIP files

{readers}"""


def _entry(path: str) -> str:
    """Write the autodoc directive of a name; the main classes get their methods, too."""
    name = path.rsplit(".", 1)[1]
    kind = "autoclass" if name[0].isupper() else "autofunction"
    members = ":members:\n" if kind == "autoclass" and not name.endswith("Error") else ""
    return f"```{{eval-rst}}\n.. {kind}:: {path}\n{'   ' + members if members else ''}```\n"
