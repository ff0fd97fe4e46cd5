"""Tasks that are built in: each on a row as its hub data set has it, against the text that the papers' code makes."""

from typing import Any

import pytest

from blackbox.errors import UserError
from problems.llm.examples import make_examples
from problems.llm.prompt import KINDS, make_prompt
from problems.llm.tasks import TASKS
from problems.llm.template import expand, fields_of, fill

NLI = {"premise": "It rains.", "hypothesis": "It is wet."}
INFER = 'Suppose It rains. Can we infer that "It is wet."? Yes, No, or Maybe?\n'

# row -> prompt, the right answer, a wrong one
ROWS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "sst2": ({"sentence": "a fine film ", "label": 1}, "a fine film It was", " great", " terrible"),
    "sst5": ({"text": "so so", "label": 2}, "so so It was", " okay", " bad"),
    "snli": ({**NLI, "label": 2}, INFER, "No", "Yes"),
    "mnli": ({**NLI, "label": 1}, INFER, "Maybe", "No"),
    "rte": (
        {**NLI, "label": 0},
        'It rains.\nDoes this mean that "It is wet." is true? Yes or No?\n',
        "Yes",
        "No",
    ),
    "trec": (
        {"text": "Who was he ?", "coarse_label": 3},
        "Question: Who was he ?\nThe answer is a kind of:",
        " Human",
        " Entity",
    ),
    "boolq": (
        {"passage": "Cats purr.", "question": "do cats purr", "answer": True},
        "Cats purr. Do cats purr?\n",
        "Yes",
        "No",
    ),
    "cb": ({**NLI, "label": 1}, INFER, "No", "Maybe"),
    "wic": (
        {"word": "bank", "sentence1": "A bank lends.", "sentence2": "The river bank.", "label": 0},
        'Does the word "bank" have the same meaning in these two sentences? Yes, No?\nA bank lends.\nThe river bank.\n',
        "No",
        "Yes",
    ),
    "wsc": (
        {"text": "Ann saw Eve; She left.", "span1_text": "Ann", "span2_text": "She", "label": 1},
        'Ann saw Eve; She left.\nIn the previous sentence, does the pronoun "she" refer to Ann? Yes or No?\n',
        "Yes",
        "No",
    ),
    "multirc": (
        {"paragraph": "He ran.", "question": "Who ran?", "answer": "He", "label": 1},
        'He ran.\nQuestion: Who ran?\nI found this answer "He". Is that correct? Yes or No?\n',
        "Yes",
        "No",
    ),
    "copa": (
        {
            "premise": "The man fell.",
            "choice1": "The floor was wet.",
            "choice2": "I saw it.",
            "question": "cause",
            "label": 0,
        },
        "The man fell because",
        " the floor was wet.",
        " I saw it.",
    ),
    "record": (
        {
            "passage": "Bob met Al.\n@highlight\nThey talked",
            "query": "It was @placeholder who left",
            "entities": ["Bob", "Al, the tall", "Bob"],
            "answers": ["Al, the tall"],
        },
        "Bob met Al.\n- They talked\n-",
        " It was Al, the tall who left",
        " It was Bob who left",
    ),
    "winogrande": (
        {"sentence": "Ian ate it because _ was hungry.", "option1": "Ian", "option2": "Dennis", "answer": "2"},
        "Ian ate it because ",
        "Dennis was hungry.",
        "Ian was hungry.",
    ),
    "squad": (
        {
            "title": "Rome",
            "context": "Rome is old.",
            "question": " What is old?",
            "answers": {"text": ["Rome", "Rome it"], "answer_start": [0, 0]},
        },
        "Title: Rome\nContext: Rome is old.\nQuestion: What is old?\nAnswer:",
        " Rome",
        "",
    ),
    "drop": (
        {"passage": "Two goals.", "question": "How many?", "answers_spans": {"spans": ["2"], "types": ["number"]}},
        "Passage: Two goals.\nQuestion: How many?\nAnswer:",
        " 2",
        "",
    ),
    "tofu-choice": (
        {"question": "Where?", "answer": "Paris", "perturbed_answer": ["Berlin", "Rome"]},
        "Question: Where?\nAnswer:",
        " Paris",
        " Rome",
    ),
    "tofu": ({"question": "Where?", "answer": "Paris"}, "Question: Where?\nAnswer:", " Paris", ""),
}


def form_of(name: str) -> str:
    return next(form for form in KINDS if getattr(TASKS[name], form) is not None)


def test_every_task_is_tried() -> None:
    assert set(ROWS) == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_row_of_the_hub_becomes_the_papers_prompt(name: str) -> None:
    row, text, right, wrong = ROWS[name]
    form = form_of(name)
    prompt = make_prompt(name, form=form)
    (example,) = make_examples([row], prompt, {}, name)
    assert prompt.render(example.fields) == text
    answers = prompt.answers or example.options
    if form == "answer":
        assert answers[0] == right
    else:
        assert answers[example.label] == right
        assert wrong in answers
    if form == "options":
        assert example.right == (example.label,)
        assert len(set(answers)) == len(answers)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.masked])
def test_masked_templates_hold_the_mask_and_the_fields(name: str) -> None:
    task = TASKS[name]
    assert task.masked is not None
    assert set(fields_of(task.masked)) == {*fields_of(task.template), "mask"}


def test_masked_templates_say_what_the_papers_do() -> None:
    assert fill(TASKS["snli"].masked or "", {**NLI, "mask": "<mask>"}) == "It rains? <mask>, it is wet."
    assert fill(TASKS["sst2"].masked or "", {"x": "a film", "mask": "<mask>"}) == "a film It was <mask>."


def test_labels_may_go_by_other_names() -> None:
    prompt = make_prompt("mnli")
    rows = [{**NLI, "label": label} for label in ("entailment", 2, "-1", "-")]
    assert [example.label for example in make_examples(rows, prompt, {}, "mnli")] == [0, 2]
    boolq = make_prompt("boolq")
    rows = [{"passage": "a", "question": "b", "label": label} for label in (1, "true", False)]
    assert [example.label for example in make_examples(rows, boolq, {}, "boolq")] == [1, 1, 0]


def test_several_answers_may_be_right() -> None:
    prompt = make_prompt("record", form="options")
    row = {**ROWS["record"][0], "entities": ["Bob", "Al", "Cy"], "answers": ["Cy", "Bob"]}
    (example,) = make_examples([row], prompt, {}, "record")
    assert example.right == (0, 2)
    assert example.label == 0


def test_filters() -> None:
    fields = {"x": "Some THING. ", "y": "I say", "z": "left_right_x"}
    assert fill("{x:lower|capital}|{x:bare}|{y:question}|{y:small}", fields) == "Some thing. |Some THING|I say?|I say"
    assert fill("{z:before(_)}|{z:after(_)}|{z:replace(_,{y})}", fields) == "left|right_x|leftI sayrightI sayx"
    assert fill("{y:choose(I say=one,b=two)}", fields) == "one"
    assert fields_of("{z:replace(_,{y})} {x}") == ("z", "y", "x")
    assert expand("{z:replace(_,{y})}", {"z": "a_", "y": ["1", "2"]}) == [("1", "a1"), ("2", "a2")]


@pytest.mark.parametrize(
    ("form", "settings", "message"),
    [
        ("verbalizer", {"template": "copa"}, "copa is a task of options; use type: llm-choice"),
        ("options", {"template": "squad"}, "squad is a task of answer; use type: llm-generation"),
        ("options", {"template": "sst2"}, "sst2 is a task of verbalizer; use type: llm-classification"),
        ("answer", {"template": "sqaud"}, "neither built in .squad, drop, tofu."),
        ("options", {"template": "{a}"}, "options: a template of your own needs"),
        ("options", {"template": "{a}", "options": ["yes", "{b}"]}, "each needs a field"),
        ("options", {"template": "{a}", "options": ["{b}", "{c}"], "right": [1]}, "has 1 values for 2 options"),
        ("options", {"template": "{a}", "options": ["{b}", "{c}"], "right": "last"}, "neither `first` nor a list"),
        ("options", {"template": "{a}", "verbalizer": {0: "a", 1: "b"}}, "verbalizer: llm-choice takes options"),
        ("answer", {"template": "{a}"}, "answer: a template of your own needs"),
        ("answer", {"template": "{a}", "answer": "yes"}, "has no field"),
        ("verbalizer", {"template": "{a:shout}", "verbalizer": {0: "a", 1: "b"}}, "no filter 'shout'"),
        ("verbalizer", {"template": "{a:before(_}", "verbalizer": {0: "a", 1: "b"}}, "does not end in a parenthesis"),
    ],
)
def test_impossible_tasks_are_refused(form: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_prompt(form=form, **settings)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("boolq", {"answer": "maybe"}, "example 1: label 'maybe' is not in the verbalizer"),
        ("copa", {"question": "why"}, "example 1: 'why' is not one of cause, effect"),
        ("copa", {"label": 2}, "example 1: label 2 names none of the options .'0', '1'."),
        ("winogrande", {"sentence": "no gap"}, "there is no '_' in 'no gap'"),
        ("record", {"answers": ["Eve"]}, r"label \['Eve'\] names none of the options"),
        ("record", {"entities": ["Al, the tall"]}, "all 1 options are right"),
        ("tofu-choice", {"perturbed_answer": ["Paris"]}, "no two different options, only ' Paris'"),
        ("squad", {"answers": {"text": []}}, "there is no answer"),
        ("squad", {"question": ["a", "b"]}, "question is a list"),
        ("drop", {"passage": None}, "no value for 'passage'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(name: str, change: dict[str, Any], message: str) -> None:
    prompt = make_prompt(name, form=form_of(name))
    with pytest.raises(UserError, match=message):
        make_examples([{**ROWS[name][0], **change}], prompt, {}, "rows")


def test_a_column_that_is_not_there_is_named() -> None:
    prompt = make_prompt("squad", form="answer")
    row = {key: value for key, value in ROWS["squad"][0].items() if key != "answers"}
    with pytest.raises(UserError, match=r"no column 'answers\.text' or 'answers' for 'answers'; there are 'title'"):
        make_examples([row], prompt, {}, "rows")
    (example,) = make_examples([{**row, "gold": {"all": ["a", "b"]}}], prompt, {"answers": "gold.all"}, "rows")
    assert example.options == (" a", " b")
