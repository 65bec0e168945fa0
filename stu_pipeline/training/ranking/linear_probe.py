"""How well a line through features tells labels apart on cases that it was not fitted to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_NUM_FOLDS = 5


def score_features(
    features: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int64]], *, seed: int = 0
) -> NDArray[np.float64]:
    """Score features case by case: linear discriminants with shrinkage, fitted to the other cases.

    Args:
        features: per case `(voxel, feature)`.
        labels: per case `(voxel,)`.
        seed: of the folds.

    Returns:
        Per case the mean over its labels of the AUROC of one label against the rest; NaN for a case none of whose
        labels occur in the cases of the other folds.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.preprocessing import StandardScaler

    order = np.random.default_rng(seed).permutation(len(features))
    scores = np.full(len(features), np.nan)
    for fold in np.array_split(order, min(_NUM_FOLDS, len(features))):
        others = [place for place in range(len(features)) if place not in set(fold.tolist())]
        known = np.concatenate([labels[place] for place in others])
        if len(np.unique(known)) < 2:
            continue
        scaler = StandardScaler().fit(np.concatenate([features[place] for place in others]))
        probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=_make_equal(known))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # features that are the same everywhere
            probe.fit(scaler.transform(np.concatenate([features[place] for place in others])), known)
            for place in fold:
                shares = probe.predict_proba(scaler.transform(features[place]))
                scores[place] = _measure_auroc(shares, labels[place], probe.classes_)
    return scores


def _make_equal(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    num_labels = len(np.unique(labels))
    return np.full(num_labels, 1 / num_labels)


def _measure_auroc(shares: NDArray[np.float64], labels: NDArray[np.int64], known: NDArray[np.int64]) -> float:
    from sklearn.metrics import roc_auc_score

    found = [
        roc_auc_score(labels == label, shares[:, column])
        for column, label in enumerate(known)
        if 0 < (labels == label).sum() < len(labels)
    ]
    return float(np.mean(found)) if found else float("nan")
