"""Steering: what people tell a running search besides their answers.

A request is journaled before it is acted on, and acted on once, whatever dies in between: it is part of the run as an
answer is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from blackbox.errors import UserError
from blackbox.feedback import Answers
from blackbox.journal import Journal

if TYPE_CHECKING:
    from blackbox.session import Session


@dataclass(frozen=True, slots=True, eq=False)
class Steer:
    """One request.

    Attributes:
        radius: a factor on the present radius of the search, positive: below 1 closer, above 1 wilder. It counts from
            the next round that is planned.
        values: float64 [d], a point to go on from; the open round is dropped. None stays where the search is.
        by: who asks.
        id: names the request; one that was acted on before is left out. Empty for a request that comes once.

    Raises:
        UserError: a radius that is not positive, values that are not a finite vector.
    """

    radius: float = 1.0
    values: npt.NDArray[np.float64] | None = None
    by: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.radius < float("inf"):
            raise UserError(f"radius is a factor and must be positive, not {self.radius}.")
        if self.values is not None and (self.values.ndim != 1 or not np.isfinite(self.values).all()):
            raise UserError(f"values must be one finite vector, not an array of shape {list(self.values.shape)}.")


def to_record(request: Steer, dropped: bool, journal: Journal) -> dict[str, Any]:
    """The request as a journal record; ``dropped`` says whether it ends an open round."""
    record = {"kind": "steered", "radius": request.radius, "by": request.by, "id": request.id, "dropped": dropped}
    return record if request.values is None else {**record, "values": journal.pack(request.values)}


def from_record(record: dict[str, Any], journal: Journal) -> Steer:
    """The request of a record."""
    packed = record.get("values")
    values = None if packed is None else journal.unpack(packed)
    return Steer(record["radius"], values, record["by"], record["id"])


def check(request: Steer, session: Session) -> None:
    """UserError where the search can't go on from the request's values."""
    if request.values is None:
        return
    parameters = session.parameters
    if parameters.module is not None:
        raise UserError("A search over a module's weights can't go on from another point: give a vector problem.")
    if request.values.shape != (parameters.dimension,):
        raise UserError(f"The search is over {parameters.dimension} numbers, the point has {len(request.values)}.")


def act_on(request: Steer, session: Session) -> None:
    """What a request does, at once or on replay; a round that it ends counts as a step without a value."""
    session.radius *= request.radius
    if request.id:
        session.steered.add(request.id)
    phase = session._phase
    if session.between_rounds:
        session._phase = None  # perhaps planned already, for the old radius
    if request.values is None:
        return
    if phase is not None and session._phase is not None:
        session._told.add(phase.ids)
        session.steps += 1
        session.history.append(nan)
    session._phase = None
    session._answers = Answers()
    parameters = session.parameters
    whole = torch.from_numpy(request.values)
    specs = parameters.layout.specs
    parameters.assign({s.name: whole[s.offset : s.offset + s.numel].view(s.shape) for s in specs})
    parameters.version += 1
    session.strategy.begin(parameters)
