"""Describe the columns that `raypipe classify` adds by unit, UCD and meaning.

The probabilities `p_<class>` have the meaning that `raypipe.catalog.schema` gives them.
"""

from __future__ import annotations

CLASS_GROUPS = ("spectrum", "flux", "variability", "context")
"""Groups of features, whose shares in a classification are columns."""

CLASS_COLUMNS: dict[str, tuple[str, str, str]] = {
    "best_class": (
        "",
        "src.class",
        "most probable class if all were equally frequent; null for what is unlike all of them",
    ),
    "class_set": (
        "",
        "src.class",
        "classes that cannot be excluded, separated by |: for each class, 90% of its sources have "
        "a set that holds it, or the share that classify.coverage states",
    ),
    "class_unlike": ("", "meta.code", "whether it is unlike all labeled sources"),
    "class_unlike_p": (
        "",
        "stat.probability",
        "share of labeled sources that are at least as far from all classes in latent space",
    ),
    "class_rests_on": (
        "",
        "meta.note",
        "group of features that speaks most for best_class: spectrum, flux, variability or context",
    ),
    **{
        f"class_share_{group}": (
            "",
            "arith.factor",
            f"share of {group} in what speaks for the most probable class",
        )
        for group in CLASS_GROUPS
    },
}
"""Columns of a classification: unit, UCD and description by name."""

VOTES = "votes_"
"""Prefix of the class probabilities that the catalog had before, from votes of neighbors."""

VOTES_COLUMN = (
    "",
    "stat.probability",
    "probability of class {0} by votes of the nearest labeled latents of the model's training",
)
