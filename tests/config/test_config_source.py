import pytest

from blackbox.config.source import nearest, override, parse, to_text
from blackbox.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("1_000", 1000),
        ("010", 10),
        ("0x10", 16),
        ("-.inf", float("-inf")),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("true", True),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ("!!str 5", "5"),
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    found = parse(f"a: {text}").data["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("value", ["1e-3", "no", "5", "null", "", " x", "a: b", 1e-5, float("inf"), None, True, [1]])
def test_text_written_is_read_back_as_it_was(value):
    assert parse(to_text({"a": value})).data == {"a": value}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "given twice"),
        ("a: [1\nb: 2\n", 2, "not YAML"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "tag"),
        ("a: &x [*x]\n", 1, "alias"),
        ("? [1, 2]\n: 3\n", 1, "a key must be"),
    ],
)
def test_a_malformed_file_is_refused_with_the_line(text, line, words):
    with pytest.raises(UserError, match=words) as caught:
        parse(text, "demo.yaml")
    assert str(caught.value).startswith(f"demo.yaml:{line}: ")


@pytest.mark.parametrize("text", ["", "- 1", "just words", "[" * 5000, "a: " + "9" * 5000])
def test_what_is_no_configuration_is_refused(text):
    with pytest.raises(UserError, match=r"\w"):
        parse(text)


def test_an_override_makes_a_block_of_a_short_name():
    source = parse("optimizer: sgd")
    override(source, "optimizer.lr=1e-4")
    assert source.data == {"optimizer": {"type": "sgd", "lr": 1e-4}}


def test_an_override_reaches_lists_and_numbered_keys():
    source = parse("a: [x, {b: 1}]\nv: {0: no, 1: yes}")
    override(source, "a.1.b=2")
    override(source, "v.0=maybe")
    assert source.data == {"a": ["x", {"b": 2}], "v": {0: "maybe", 1: "yes"}}


def test_an_override_is_where_a_complaint_about_it_points():
    source = parse("a: {b: 1}\n")
    override(source, "a={b: 2}")
    assert str(source.root.child("a").error("odd", "b")) == "--set a: a.b: odd"


@pytest.mark.parametrize("setting", ["a", "=1", "a..b=1", "a.b.c=1", "l.7=1", "l.x=1", "a.b=[1"])
def test_an_impossible_override_is_refused(setting):
    with pytest.raises(UserError, match="--set"):
        override(parse("a: {b: 1}\nl: [1]"), setting)


def test_nearest_names_a_near_word_and_nothing_for_a_far_one():
    assert nearest("optimiser", ["optimizer", "oracle"]) == " Did you mean 'optimizer'?"
    assert nearest("zzz", ["optimizer", "oracle"]) == ""
