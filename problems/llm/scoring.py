"""Scores of the answer options, with the output layer applied only where an answer is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Scorer(nn.Module):
    """A language model whose output layer is applied only where an answer is read.

    Scores are computed in float32 outside autocast: the difference of two losses is the signal of
    a forward-only method, and bfloat16 logits would round it away.

    Attributes:
        route: `head`, the output layer on the hidden states at the answer (a bias, a wrapped layer); or
            `full`, the model's own logits everywhere (a model that alters them after the output layer).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.route = "full"

    @property
    def causal(self) -> Any:
        """The language model itself, without an adapter's wrapper."""
        wrapped: Any = self.model
        return wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped

    def hidden(self, tokens: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        """Final hidden states at these (rows, positions), `[rows, span, width]`."""
        found: Tensor = self.causal.base_model(input_ids=tokens, use_cache=False)[0][at]
        return found

    def logits(self, tokens: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        """Logits at these (rows, positions), float32 `[rows, span, vocabulary]`."""
        if self.route == "full":
            found: Tensor = self.causal(input_ids=tokens, use_cache=False).logits[at].float()
            return found
        hidden = self.hidden(tokens, at)
        with torch.autocast(hidden.device.type, enabled=False):
            head = self.causal.get_output_embeddings()
            logits: Tensor = head(hidden.to(head.weight.dtype)).float()
        return logits

    def positions(self, tokens: Tensor, last: Tensor, span: int) -> tuple[Tensor, Tensor]:
        """Rows and positions, from the prompts' last tokens on, as many as the longest answer has tokens."""
        steps = torch.arange(span, device=last.device)
        rows = torch.arange(len(last), device=last.device)[:, None]
        return rows, (last[:, None] + steps).clamp(max=tokens.shape[1] - 1)

    def agrees(self, scores: Tensor, expected: Tensor) -> bool:
        """Whether a route gives what the model itself gives, but for rounding."""
        head = self.causal.get_output_embeddings()
        tolerance = 1e-3 if head.weight.dtype == torch.float32 else 3e-2
        return bool((scores - expected).abs().max() <= tolerance * expected.abs().max())

    @property
    def routes(self) -> list[str]:
        """Routes cheaper than `full` that may be tried."""
        head = self.causal.get_output_embeddings()
        return ["head"] if head is not None and self.causal.base_model is not self.causal else []


class AnswerScorer(Scorer):
    """Mean log-likelihood of each answer's tokens (MeZO, arXiv:2305.17333, appendix E), answers of any kind.

    Args:
        model: a causal language model, perhaps in an adapter's wrapper.
        sample: tokens of a prompt and an answer, on which the route is chosen.
    """

    def __init__(self, model: nn.Module, sample: Sequence[int]) -> None:
        super().__init__(model)
        device = next(model.parameters()).device
        tokens = torch.tensor([list(sample)], device=device)
        last = torch.tensor([0], device=device)
        ids = tokens[:, 1:] if tokens.shape[1] > 1 else tokens
        weights = torch.full(ids.shape, 1 / ids.shape[1], device=device)
        with torch.no_grad():
            expected = self(tokens, last, ids, weights)
            for route in self.routes:
                self.route = route
                if self.agrees(self(tokens, last, ids, weights), expected):
                    return
        self.route = "full"

    def forward(self, tokens: Tensor, last: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """Scores, float32 `[rows]`.

        Args:
            tokens: int64 `[rows, length]`: prompt and answer, padded on the right.
            last: int64 `[rows]`, position of the prompt's last token.
            ids: int64 `[rows, span]`, the answers' tokens.
            weights: float32 `[rows, span]`, what each counts; 0 in the padding.
        """
        logits = self.logits(tokens, self.positions(tokens, last, ids.shape[1]))
        likelihoods = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        return (likelihoods * weights).sum(-1)


class OptionScorer(Scorer):
    """`[batch, options]` float32 scores of the answers to a batch of prompts.

    A one-token answer scores its logit after the prompt. A longer one scores the mean
    log-likelihood of its tokens (MeZO, arXiv:2305.17333, appendix D), one sequence per option.
    The route is chosen once, the cheapest that agrees with the model's own forward pass:

    - `rows`: the hidden state at the answer times the options' rows of the output layer. They are
      read through `self.rows`, an embedding whose weight *is* that layer's, because an execution
      that displaces weights while their module runs does not reach weights that are merely read.
    - `head` and `full`, as for every `Scorer`.
    """

    option_ids: Tensor
    option_weights: Tensor

    def __init__(self, model: nn.Module, options: Sequence[Sequence[int]]) -> None:
        super().__init__(model)
        self.span = max(map(len, options))
        self.rows: nn.Embedding | None = None
        device = next(model.parameters()).device
        ids = torch.zeros(len(options), self.span, dtype=torch.int64)
        weights = torch.zeros(len(options), self.span)
        for index, tokens in enumerate(options):
            ids[index, : len(tokens)] = torch.tensor(tokens)
            weights[index, : len(tokens)] = 1 / len(tokens)
        self.register_buffer("option_ids", ids.to(device), persistent=False)
        self.register_buffer("option_weights", weights.to(device), persistent=False)
        self.route = self._choose_route(torch.tensor([list(options[0]) * 3], device=device))

    @property
    def sequences(self) -> int:
        """Sequences per prompt: one if every answer is one token, else one per option."""
        return 1 if self.span == 1 else len(self.option_ids)

    def forward(self, tokens: Tensor, last: Tensor, copies: int = 1) -> Tensor:
        """Scores.

        Args:
            tokens: int64 `[batch * sequences, length]`, padded on the right. A causal model never
                looks right, so there is no attention mask.
            last: int64 `[batch * sequences]`, position of the prompt's last token.
            copies: the batch is so many copies of one, one after the other; an execution may give
                each other weights, so what is looked up for all rows is looked up once a copy.
        """
        at = self.positions(tokens, last, self.span)
        if self.rows is not None:
            hidden = self.hidden(tokens, at)
            with torch.autocast(hidden.device.type, enabled=False):
                # A product and a sum: exact in float32, and a matmul gains nothing this small.
                answers = self.rows(self.option_ids[:, 0].repeat(copies)).float()
                answers = answers.view(copies, 1, -1, hidden.shape[-1])  # [copies, 1, options, width]
                products: Tensor = hidden.float().view(copies, -1, 1, hidden.shape[-1]) * answers
                return products.sum(-1).flatten(0, 1)
        logits = self.logits(tokens, at)
        if self.span == 1:
            return logits[:, 0, self.option_ids[:, 0]]
        targets = self.option_ids.repeat(len(last) // len(self.option_ids), 1)
        likelihoods: Tensor = logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        weights = self.option_weights.repeat(len(last) // len(self.option_ids), 1)
        return (likelihoods * weights).sum(-1).view(-1, len(self.option_ids))

    @torch.no_grad()
    def _choose_route(self, tokens: Tensor) -> str:
        """The first route whose scores agree with the model's own logits on one sequence."""
        head = self.causal.get_output_embeddings()
        last = torch.full((self.sequences,), tokens.shape[1] - self.span, device=tokens.device)
        tokens = tokens.expand(self.sequences, -1)
        self.route = "full"
        expected = self(tokens, last)
        routes = self.routes
        if routes and self.span == 1 and type(head) is nn.Linear and head.bias is None:
            routes.insert(0, "rows")
        for route in routes:
            self.route = route
            if route == "rows":
                self.rows = nn.Embedding(head.out_features, head.in_features, device="meta")
                # Assigned: the constructor would wrap the tensor in a Parameter of its own.
                self.rows.weight = head.weight
            if self.agrees(self(tokens, last), expected):
                return route
            self.rows = None
        return "full"
