"""The tasks that are built in: a template, what may be answered, the data's columns, and where a hub has the data.

Templates for causal models are those of MeZO (arXiv:2305.17333, appendix E.2, and its released code) for SST-2, RTE,
BoolQ, CB, WiC, WSC, COPA, MultiRC, ReCoRD, SQuAD and DROP; that of WinoGrande is the zeroth-order benchmark's
(arXiv:2402.11592, after arXiv:2110.08207); TOFU's is its own (arXiv:2401.06121). SNLI and MNLI take CB's words, SST-5
those of SST-2, and TREC's are this project's. ``masked`` are the templates of MeZO's RoBERTa experiments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """What is asked and what may be answered; exactly one of verbalizer, options and answer is given.

    Attributes:
        template: of the prompt, with the data's fields in braces.
        verbalizer: label -> answer: the task is a classification.
        options: templates of the answers to choose from, their spaces included; a field that is a list makes one of
            each of its items.
        right: for options: what the column `label` says for each of them (default 0, 1, ...; for a list, the items
            themselves), or `first`.
        answer: template of the text to generate; a list is all the texts that are right, the first of which is taught.
        stop: text at which generation ends; the tokenizer's own end if left out.
        columns: field -> the names that its column goes by, the likeliest first.
        aliases: other spellings of labels.
        masked: template for masked models, with `{mask}` where the answer stands.
        hub: where a hub has the data: `set` or `set:configuration`.
        splits: the hub's name of each split, where it is another, or how many rows are drawn from the training rows.
    """

    template: str
    verbalizer: Mapping[str, str] | None = None
    options: Sequence[str] | None = None
    right: str | Sequence[str] | None = None
    answer: str | None = None
    stop: str | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    masked: str | None = None
    hub: str | None = None
    splits: Mapping[str, str | float] = field(default_factory=dict)


_INFER = 'Suppose {premise} Can we infer that "{hypothesis}"? Yes, No, or Maybe?\n'
_MASKED_PAIR = "{premise:bare}? {mask}, {hypothesis:small}"
_ENTAILMENT = {"entailment": "0", "neutral": "1", "contradiction": "2"}
_NO_YES = {"0": "No", "1": "Yes"}
_BOOLEANS = {"False": "0", "false": "0", "True": "1", "true": "1"}
# The hub's own test split has no labels: tests are its validation split, validation is drawn from the training rows.
_TESTED: Mapping[str, str | float] = {"validation": 500, "test": "validation"}
_SHARES: Mapping[str, str | float] = {"validation": 0.1, "test": 0.2}
_SMALL: Mapping[str, str | float] = {"validation": 100, "test": "validation"}

TASKS: Mapping[str, Task] = {
    "sst2": Task(
        "{x} It was",
        verbalizer={"0": " terrible", "1": " great"},
        masked="{x} It was {mask}.",
        hub="nyu-mll/glue:sst2",
        splits=_TESTED,
    ),
    "sst5": Task(
        "{x} It was",
        verbalizer={"0": " terrible", "1": " bad", "2": " okay", "3": " good", "4": " great"},
        masked="{x} It was {mask}.",
        hub="SetFit/sst5",
    ),
    "snli": Task(
        _INFER,
        verbalizer={"0": "Yes", "1": "Maybe", "2": "No"},
        aliases=_ENTAILMENT,
        masked=_MASKED_PAIR,
        hub="stanfordnlp/snli",
    ),
    "mnli": Task(
        _INFER,
        verbalizer={"0": "Yes", "1": "Maybe", "2": "No"},
        aliases=_ENTAILMENT,
        masked=_MASKED_PAIR,
        hub="nyu-mll/glue:mnli",
        splits={"validation": "validation_matched", "test": "validation_mismatched"},
    ),
    "rte": Task(
        '{premise}\nDoes this mean that "{hypothesis}" is true? Yes or No?\n',
        verbalizer={"0": "Yes", "1": "No"},
        aliases={"entailment": "0", "not_entailment": "1"},
        columns={"premise": ("premise", "sentence1"), "hypothesis": ("hypothesis", "sentence2")},
        masked=_MASKED_PAIR,
        hub="aps/super_glue:rte",
        splits=_TESTED,
    ),
    "trec": Task(
        "Question: {x}\nThe answer is a kind of:",
        verbalizer={
            "0": " Expression",
            "1": " Entity",
            "2": " Description",
            "3": " Human",
            "4": " Location",
            "5": " Number",
        },
        columns={"label": ("coarse_label", "label-coarse", "label")},
        aliases={"ABBR": "0", "ENTY": "1", "DESC": "2", "HUM": "3", "LOC": "4", "NUM": "5"},
        masked="{mask}: {x}",
        hub="CogComp/trec",
    ),
    "boolq": Task(
        "{passage} {question:capital|question}\n",
        verbalizer=_NO_YES,
        columns={"label": ("answer", "label")},
        aliases=_BOOLEANS,
        hub="google/boolq",
        splits=_TESTED,
    ),
    "cb": Task(
        _INFER,
        verbalizer={"0": "Yes", "1": "No", "2": "Maybe"},
        aliases={"entailment": "0", "contradiction": "1", "neutral": "2"},
        hub="aps/super_glue:cb",
        splits=_SMALL,
    ),
    "wic": Task(
        'Does the word "{word}" have the same meaning in these two sentences? Yes, No?\n{sentence1}\n{sentence2}\n',
        verbalizer=_NO_YES,
        aliases=_BOOLEANS,
        hub="aps/super_glue:wic",
        splits=_TESTED,
    ),
    "wsc": Task(
        '{text}\nIn the previous sentence, does the pronoun "{span2_text:lower}" refer to {span1_text}? Yes or No?\n',
        verbalizer=_NO_YES,
        aliases=_BOOLEANS,
        hub="aps/super_glue:wsc.fixed",
        splits=_TESTED,
    ),
    "multirc": Task(
        '{paragraph}\nQuestion: {question}\nI found this answer "{answer}". Is that correct? Yes or No?\n',
        verbalizer=_NO_YES,
        hub="aps/super_glue:multirc",
        splits=_TESTED,
    ),
    "copa": Task(
        "{premise:bare} {question:choose(cause=because,effect=so)}",
        options=(" {choice1:small}", " {choice2:small}"),
        hub="aps/super_glue:copa",
        splits=_SMALL,
    ),
    "record": Task(
        "{passage:replace(@highlight\n,- )}\n-",
        options=(" {query:replace(@placeholder,{entities})}",),
        columns={"label": ("answers",)},
        hub="aps/super_glue:record",
        splits=_TESTED,
    ),
    "winogrande": Task(
        "{sentence:before(_)}",
        options=("{option1}{sentence:after(_)}", "{option2}{sentence:after(_)}"),
        right=("1", "2"),
        columns={"label": ("answer",)},
        hub="allenai/winogrande:winogrande_m",
        splits=_TESTED,
    ),
    "squad": Task(
        "Title: {title}\nContext: {context}\nQuestion: {question}\nAnswer:",
        answer=" {answers}",
        stop="\n",
        columns={"answers": ("answers.text", "answers")},
        hub="rajpurkar/squad",
        splits=_TESTED,
    ),
    "drop": Task(
        "Passage: {passage}\nQuestion: {question}\nAnswer:",
        answer=" {answers}",
        stop="\n",
        columns={"answers": ("answers_spans.spans", "answers"), "passage": ("passage", "context")},
        hub="ucinlp/drop",
        splits=_TESTED,
    ),
    "tofu-choice": Task(
        "Question: {question}\nAnswer:",
        options=(" {answer}", " {perturbed_answer}"),
        right="first",
        hub="locuslab/TOFU:world_facts_perturbed",
        splits=_SHARES,
    ),
    "tofu": Task("Question: {question}\nAnswer:", answer=" {answer}", hub="locuslab/TOFU:full", splits=_SHARES),
}
