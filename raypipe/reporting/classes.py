"""Choose the classes that the figures of a report distinguish, and their colors and markers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from raypipe.display.style import CLASS_STYLE, OTHER_STYLE

MOST_CLASSES = 30
"""Most classes that a figure distinguishes by color or panel, or a matrix by numbers in cells."""

_JOINED = "other ({} classes)"

TextArray = npt.NDArray[np.object_]


def join_rare(classes: TextArray) -> TextArray:
    """Join the rarest classes of detections (n,) if there are more than MOST_CLASSES.

    They become one class, called "other (12 classes)"; None stays None.
    """
    counts = Counter(name for name in classes if isinstance(name, str))
    if len(counts) <= MOST_CLASSES:
        return classes
    kept = sorted(counts, key=lambda name: (-counts[name], name))[: MOST_CLASSES - 1]
    rare = dict.fromkeys(counts.keys() - set(kept), _JOINED.format(len(counts) - len(kept)))
    return np.array([rare.get(name, name) for name in classes], dtype=object)


def class_styles(classes: Iterable[object]) -> dict[str, tuple[str, str]]:
    """Assign a color and a marker to each class of the detections, by name, joined ones last.

    Those of the simulator's classes are fixed. Other classes have the same colors with other
    markers, which are distinct for up to 56 classes.
    """
    names = sorted({name for name in classes if isinstance(name, str)}, key=_last_if_joined)
    colors, markers = zip(*CLASS_STYLE.values(), strict=True)
    n = len(CLASS_STYLE)
    unknown = [name for name in names if name not in CLASS_STYLE and not _is_joined(name)]
    own = {name: (colors[i % n], markers[(i + 1 + i // n) % n]) for i, name in enumerate(unknown)}
    return {name: CLASS_STYLE.get(name) or own.get(name, OTHER_STYLE) for name in names}


def _is_joined(name: str) -> bool:
    return name.startswith("other (") and name.endswith(" classes)")


def _last_if_joined(name: str) -> tuple[bool, str]:
    return _is_joined(name), name
