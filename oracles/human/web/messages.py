"""What the page sends, checked at the door."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from blackbox.errors import UserError
from oracles.human.web.guard import body_of

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Message(BaseModel):
    """From whom, and about which run."""

    model_config = ConfigDict(extra="forbid")
    run: str
    rater: Name


class Order(Message):
    """``groups`` and ``skipped`` name artifacts; ``token`` names this answer, so that sent twice it counts once."""

    round: Id
    groups: list[list[Id]]
    skipped: list[Id] = []
    token: Annotated[str, StringConstraints(min_length=16, max_length=100)]


class CheckOrder(Message):
    """An answer to a check of consistency."""

    check: int
    groups: list[list[Id]]


class Undo(Message):
    """Takes an answer back."""

    answer: int


class Pin(Message):
    """Pins a candidate, or unpins it."""

    artifact: Id
    pinned: bool


class Radius(Message):
    """Looks closer by, or further afield."""

    wish: Literal["closer", "wilder"]


class Branch(Message):
    """Goes on from an earlier candidate."""

    artifact: Id


M = TypeVar("M", bound=Message)


def read(kind: type[M]) -> Callable[[Request], Awaitable[M]]:
    """What reads a request's body as a message of that kind; UserError in words if it isn't one."""

    async def reader(request: Request) -> M:
        body = await body_of(request)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            raise UserError(f"This message can't be read: {where}: {first['msg']}.") from None

    return reader
