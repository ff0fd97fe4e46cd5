"""A black box of your own: a class with one method, here around a classifier of scikit-learn."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from problems.smoothing.box import BlackBox


class DigitsClassifier(BlackBox):
    """Logistic regression on scikit-learn's digits: images [n, 1, 8, 8] -> a score for each class [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        data = load_digits()
        self.model = LogisticRegression(max_iter=1000).fit(data.data[:-360] / 16, data.target[:-360])

    def answer(self, images: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] -> scores, on the same device."""
        scores = self.model.decision_function(images.flatten(1).cpu().numpy().astype(np.float64))
        return torch.from_numpy(scores).to(images)
