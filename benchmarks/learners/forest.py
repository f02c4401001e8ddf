"""Random forest on features of several scales, as in ilastik's pixel classification, by scikit-image and scikit-learn.

It gets what this software gives its own network: the working grid and the held-out slices. By these, the best of
several configurations is chosen; the time for that doesn't count.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.feature import multiscale_basic_features
from sklearn.ensemble import RandomForestClassifier

from benchmarks.learning import Trial
from lib.core.labels import UNLABELLED
from lib.core.training.cases import TrainingCase

from .prepared import Prepared

FINEST, COARSEST = 0.5, 16.0
"""Standard deviations in voxels of the features; each scale is twice as coarse as the one before."""

TREES = 100
"""As in ilastik."""


class Configuration(NamedTuple):
    """What is chosen by the held-out slices.

    Attributes:
        class_weight: by frequency in each tree's sample, or none.
        min_samples_leaf: voxels in a leaf, at least.
    """

    class_weight: str | None
    min_samples_leaf: int


CONFIGURATIONS = tuple(map(Configuration._make, itertools.product((None, "balanced_subsample"), (1, 20))))


def learn(trial: Trial, seed: int) -> None:
    """Grow a forest once, and score it."""
    prepared = Prepared.of(trial.task, seed)
    features = {name: _features(image.image.numpy()) for name, image in prepared.images.items()}

    def grown(one: Configuration) -> "_Forest":
        return _Forest(prepared, features, one, seed)

    with trial.clock.paused():
        best = max(CONFIGURATIONS, key=lambda one: prepared.score(grown(one).segment))
    trial.score(grown(best).segment)


def _features(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the features (X, Y, Z, n) of an image (C, X, Y, Z): smoothed, edges, eigenvalues of the Hessian."""
    found = multiscale_basic_features(image, sigma_min=FINEST, sigma_max=COARSEST, channel_axis=0)
    return np.asarray(found, dtype=np.float32)


class _Forest:
    """A forest that was grown by a configuration."""

    def __init__(
        self, prepared: Prepared, features: dict[str, NDArray[np.float32]], one: Configuration, seed: int
    ) -> None:
        self._prepared, self._features = prepared, features
        scheme = prepared.task.scheme
        painted = {name: values != UNLABELLED for name, values in prepared.training.items()}
        given = np.concatenate([features[name][where] for name, where in painted.items()])
        values = np.concatenate([prepared.training[name][where] for name, where in painted.items()])
        self._forest = RandomForestClassifier(TREES, n_jobs=-1, random_state=seed, **one._asdict())
        self._forest.fit(given, scheme.targets(values))

    def segment(self, case: TrainingCase) -> NDArray[np.uint8]:
        """Return the classes (X, Y, Z) of a volume."""
        features = self._features[case.id]
        *size, count = features.shape
        found = self._forest.predict_proba(features.reshape(-1, count))
        probabilities = np.zeros((self._prepared.task.classes, len(found)), dtype=np.float32)
        probabilities[self._forest.classes_] = found.T
        return self._prepared.classes(case, torch.from_numpy(probabilities.reshape(-1, *size)))
