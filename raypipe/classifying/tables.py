"""Make the columns that a classification adds to detections and sources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raypipe.catalog.class_columns import VOTES
from raypipe.catalog.schema import described, numbers
from raypipe.classifying.classifier import Answers
from raypipe.classifying.features import GROUPS


def class_table(
    key: str,
    ids: pa.Array | pa.ChunkedArray,
    answers: Answers,
    classes: Sequence[str],
    votes: pa.Table,
    *,
    unlike_p: float,
    usable: npt.NDArray[np.bool_],
) -> pa.Table:
    """Make the added columns of rows with the column `key` of `ids`.

    `votes` holds the columns p_<class> that the catalog has from votes of neighbors; they are kept
    as votes_<class>. A class that the votes have and the classifier lacks gets the probability 0.
    Rows that are not `usable` (n,), because they have no latents, are null.
    """
    unlike = np.nan_to_num(answers.unlike_p, nan=1.0) <= unlike_p
    names = np.array(classes, dtype=object)

    def text(values: npt.NDArray[np.object_], gone: npt.NDArray[np.bool_]) -> pa.Array:
        return pa.array(values, pa.string(), mask=gone | ~usable)

    def share(values: npt.NDArray[np.float64]) -> pa.Array:
        return numbers(np.where(usable, values, np.nan).astype(np.float32))

    columns: dict[str, pa.Array | pa.ChunkedArray] = {key: ids}
    for name, column in zip(classes, answers.probabilities.T, strict=True):
        columns[f"p_{name}"] = numbers(np.where(usable, column, np.nan))
    for name in votes.column_names:
        columns.setdefault(name, numbers(np.where(usable, 0.0, np.nan)))
    columns["best_class"] = text(names[answers.best], unlike)
    columns["class_set"] = text(_sets(answers.in_set, classes), np.zeros(len(usable), bool))
    columns["class_unlike"] = pa.array(unlike, mask=~usable)
    columns["class_unlike_p"] = share(answers.unlike_p)
    strongest = np.array(GROUPS, dtype=object)[answers.rests_on.argmax(axis=1)]
    columns["class_rests_on"] = text(strongest, answers.rests_on.sum(axis=1) == 0)
    for group, values in zip(GROUPS, answers.rests_on.T, strict=True):
        columns[f"class_share_{group}"] = share(values)
    for name in votes.column_names:
        columns[VOTES + name.removeprefix("p_")] = votes[name]
    return described(columns)


def _sets(in_set: npt.NDArray[np.bool_], classes: Sequence[str]) -> npt.NDArray[np.object_]:
    """Write sets (n, classes) as text, in the order of the classes, separated by |."""
    rows, codes = np.nonzero(in_set)
    texts: list[list[str]] = [[] for _ in range(len(in_set))]
    for row, code in zip(rows.tolist(), codes.tolist(), strict=True):
        texts[row].append(classes[code])
    joined = np.empty(len(texts), dtype=object)
    joined[:] = ["|".join(each) for each in texts]
    return joined
