"""Token ids of prompts and answers; the chat's frame around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blackbox.errors import UserError
from problems.llm.prompt import Prompt


@dataclass(frozen=True)
class Chat:
    """A template of a chat: what stands before and after a user's message."""

    head: str
    tail: str


def chat_of(tokenizer: Any, system: str | None = None) -> Chat:
    """The tokenizer's chat template around one message of the user, up to where the answer begins.

    Raises:
        UserError: the tokenizer has none, or it refuses a system message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("chat: the model's tokenizer has no chat template; leave `chat` out")
    mark = "\u2060message\u2060"
    messages = [{"role": "user", "content": mark}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    try:
        whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates raise errors of their own
        raise UserError(f"chat: the model's chat template refuses the message ({error})") from error
    head, found, tail = whole.partition(mark)
    if not found:
        raise UserError("chat: the model's chat template does not show the user's message as it is")
    return Chat(head, tail)


class Encoder:
    """Token ids of prompts and answers, without padding.

    The beginning tokens that the tokenizer itself adds are kept, ending tokens are dropped (an
    answer follows). A prompt over `max_tokens` loses its beginning, never the question at its end.
    In a chat what comes before the user's message is such a beginning that is kept, and answers
    lose the space before them.
    """

    def __init__(self, tokenizer: Any, prompt: Prompt, max_tokens: int, chat: Chat | None = None) -> None:
        self.prompt = prompt
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._chat = chat
        self.start: list[int] = self._plain(chat.head) if chat else self._added()
        self.options = [self._answer(answer) for answer in prompt.answers]
        for answer, tokens in zip(prompt.answers, self.options, strict=True):
            if not tokens:
                raise UserError(f"verbalizer: the tokenizer makes no token of {answer!r}")
        if len({tuple(tokens) for tokens in self.options}) < len(self.options):
            raise UserError(
                f"verbalizer: the tokenizer does not tell the answers apart: "
                f"{dict(zip(prompt.answers, self.options, strict=True))}"
            )
        if max_tokens <= len(self.start) + max(map(len, self.options), default=1):
            raise UserError(f"max_tokens: {max_tokens} leaves no room for a prompt and its answer")

    @property
    def single_token(self) -> bool:
        """Whether every answer is one token, so that one sequence scores all of them."""
        return all(len(tokens) == 1 for tokens in self.options)

    def encode(
        self,
        examples: Sequence[Mapping[str, Any]],
        before: Sequence[Sequence[int]] = (),
        reserve: int | None = None,
        strip: bool = False,
    ) -> list[list[int]]:
        """Tokens of each example's prompt. UserError where there is none.

        Args:
            examples: the fields of each.
            before: demonstrations, put before every prompt; the first ones are left out where not all have room.
            reserve: room for an answer; that of the longest of the prompt's answers, less its last token, if left out.
            strip: leave out spaces at the end, which belong to what follows.
        """
        if reserve is None:
            reserve = max(map(len, self.options), default=1) - 1
        room = self.max_tokens - len(self.start) - reserve
        if room < 1:
            raise UserError(
                f"max_tokens: {self.max_tokens} leaves no room for a prompt beside {reserve} tokens of text"
            )
        texts = [self.text(fields) for fields in examples]
        rows = self._rows([text.rstrip(" ") for text in texts] if strip else texts)
        encoded = [self._with(before, list(row)[-room:], room) for row in rows]
        if [] in encoded:
            raise UserError(f"data: example {encoded.index([]) + 1} makes a prompt without tokens")
        return encoded

    def continued(
        self,
        examples: Sequence[Mapping[str, Any]],
        answers: Sequence[Sequence[str]],
        before: Sequence[Sequence[int]] = (),
        end: Sequence[int] = (),
    ) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Tokens of each example's prompt, and of each of its answers as they follow it.

        Spaces at the end of a prompt are given to its answers, as tokens begin with spaces and don't end with them.
        Every answer is ended by the tokens of `end`.

        Raises:
            UserError: an answer without tokens, or one that leaves a prompt no room.
        """
        prompts, continuations = [], []
        for number, (fields, texts) in enumerate(zip(examples, answers, strict=True), 1):
            whole = self.text(fields)
            text = whole.rstrip(" ")
            shown = [self.answer_text(whole[len(text) :] + answer) for answer in texts]
            alone, *both = self._rows([text, *(text + answer for answer in shown)])
            tails = [
                row[len(alone) :] if row[: len(alone)] == alone else self._plain(answer)
                for answer, row in zip(shown, both, strict=True)
            ]
            for answer, tail in zip(texts, tails, strict=True):
                if not tail:
                    raise UserError(f"data: example {number}: the tokenizer makes no token of the answer {answer!r}")
                tail.extend(end)
                if len(self.start) + len(tail) >= self.max_tokens:
                    raise UserError(
                        f"data: example {number}: the answer {answer[:40]!r} has {len(tail)} tokens, more than "
                        f"max_tokens ({self.max_tokens}) leaves it beside a prompt"
                    )
            room = self.max_tokens - len(self.start) - max(map(len, tails)) + 1
            row = self._with(before, alone[-room:], room) or self._begin()
            if not row:
                raise UserError(f"data: example {number} makes a prompt without tokens")
            prompts.append(row)
            continuations.append(tails)
        return prompts, continuations

    def text(self, fields: Mapping[str, Any]) -> str:
        """The prompt as the tokenizer is given it, after its beginning."""
        return self.prompt.render(fields) + (self._chat.tail if self._chat else "")

    def answer_text(self, answer: str) -> str:
        """The answer as it follows the prompt."""
        return answer.lstrip(" ") if self._chat else answer

    def demonstration(self, fields: Mapping[str, Any], answer: str) -> list[int]:
        """An example with its answer, to be put before prompts."""
        return self._plain(f"{self.prompt.render(fields)}{answer}".strip() + "\n\n")

    def _with(self, before: Sequence[Sequence[int]], row: list[int], room: int) -> list[int]:
        kept: list[int] = []
        for one in reversed(before):
            if len(one) + len(kept) + len(row) > room:
                break
            kept = [*one, *kept]
        return self.start + kept + row

    def _added(self) -> list[int]:
        """Tokens that the tokenizer puts before a text."""
        plain, whole = self._plain("a"), list(self._tokenizer("a")["input_ids"])
        starts = [i for i in range(len(whole)) if whole[i : i + len(plain)] == plain]
        return whole[: starts[0]] if starts else []

    def _begin(self) -> list[int]:
        """What stands where a prompt is empty: the token that separates texts."""
        ids = [getattr(self._tokenizer, name, None) for name in ("bos_token_id", "eos_token_id")]
        return next(([one] for one in ids if one is not None), [])

    def _answer(self, answer: str) -> list[int]:
        """Tokens of the answer where it follows a prompt; alone, some tokenizers add a space."""
        try:
            before = self.text(dict.fromkeys(self.prompt.fields, "a"))
        except UserError:  # a filter that "a" does not fit
            before = "a"
        answer = self.answer_text(answer)
        alone, both = self._plain(before), self._plain(before + answer)
        return both[len(alone) :] if both[: len(alone)] == alone else self._plain(answer)

    def _rows(self, texts: list[str]) -> list[list[int]]:
        rows = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [list(row) for row in rows]

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
