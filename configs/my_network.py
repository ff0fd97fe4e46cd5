"""A small neural network that never saw noise: the black box of denoiser.yaml. It is only ever asked for its scores."""

import torch
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from problems.smoothing.box import BlackBox


class DigitsNetwork(BlackBox):
    """Trained on the digits that come first; the last 360 are the test."""

    def __init__(self) -> None:
        super().__init__()
        data = load_digits()
        self.model = MLPClassifier((64,), learning_rate_init=0.01, max_iter=500, random_state=0).fit(
            data.data[:-360] / 16, data.target[:-360]
        )

    def answer(self, images: torch.Tensor) -> torch.Tensor:
        """[n, 1, 8, 8] -> log probabilities [n, 10]."""
        scores = self.model.predict_log_proba(images.flatten(1).cpu().double().numpy())
        return torch.from_numpy(scores).to(images)
