"""What the server of the page lets through, and what it doesn't."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi", reason="the page needs the extra web")
pytest.importorskip("httpx", reason="fastapi's test client needs httpx")

from fastapi.testclient import TestClient

from blackbox import Parameters, Session
from blackbox.errors import UserError
from blackbox.estimators import RankEstimator
from blackbox.optimizers import SGD
from blackbox.strategies import GradientStrategy
from oracles.human import Inbox, Item, People
from oracles.human.web import server
from oracles.human.web.server import create_app

TOKEN = "a-token-of-the-tests-own"
HOST = "http://127.0.0.1:8787"
TEXTS = {"0.0.0": "<script>alert(1)</script>", "0.0.1": "second", "0.0.2": "third", "0.0.3": "fourth"}


@pytest.fixture
def inbox(tmp_path):
    inbox = Inbox(tmp_path / "inbox.sqlite")
    inbox.open_round("0.0", [Item(query, "text/html", text.encode()) for query, text in TEXTS.items()])
    return inbox


@pytest.fixture
def stranger(inbox):
    """A client that nobody let in."""
    with TestClient(create_app({"run": inbox.path.parent}, TOKEN), base_url=HOST) as client:
        yield client


@pytest.fixture
def client(stranger):
    """A client as the page is one: let in, with the headers that a browser and the page send."""
    stranger.get(f"/?token={TOKEN}")
    stranger.headers.update({"X-CSRF-Token": stranger.get("/api/runs").json()["csrf"], "Origin": HOST})
    return stranger


def shown(client, rater="ada"):
    """{text: id} of what a rater sees, in the rater's order."""
    items = client.get("/api/round", params={"run": "run", "rater": rater}).json()["round"]["items"]
    return {client.get(f"/artifact/run/{item['id']}").text: item["id"] for item in items}


def order(ids, **changes):
    return {"run": "run", "rater": "ada", "round": "0.0", "groups": ids, "token": "t" * 16, **changes}


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/runs", "/api/round?run=run&rater=ada", "/artifact/run/x"])
def test_nothing_without_the_token(stranger, path):
    assert stranger.get(path).status_code == 401
    assert stranger.get("/?token=wrong-wrong-wrong-wrong").status_code == 403
    assert stranger.get(path).status_code == 401


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_have_no_use_of(stranger):
    answer = stranger.get(f"/?token={TOKEN}", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and TOKEN not in cookie
    assert "Which do you like best?" in stranger.get("/").text


def test_short_tokens_are_refused(inbox):
    with pytest.raises(UserError, match="16 characters"):
        create_app({"run": inbox.path.parent}, "short")


@pytest.mark.parametrize("headers", [{"X-CSRF-Token": ""}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": TOKEN}])
def test_writing_needs_the_header_of_the_page(client, inbox, headers):
    ids = list(shown(client).values())
    assert client.post("/api/submit", json=order([ids]), headers=headers).status_code == 403
    assert inbox.next_round("ada") is not None


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9999", "null", ""])
def test_writing_from_another_origin_is_refused(client, inbox, origin):
    ids = list(shown(client).values())
    assert client.post("/api/submit", json=order([ids]), headers={"Origin": origin}).status_code == 403
    assert inbox.next_round("ada") is not None


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8787", "evil.example:8787"])
def test_another_host_name_is_refused_even_with_the_cookie(client, host):
    assert client.get("/api/runs", headers={"Host": host}).status_code == 400
    assert client.get("/api/runs", headers={"Host": "localhost:8787"}).status_code == 200


def test_what_is_sent_has_a_limit_with_and_without_a_stated_length(client, inbox):
    ids = list(shown(client).values())
    large = json.dumps(order([ids], run="x" * 70_000)).encode()
    for body in (large, iter([large[:40_000], large[40_000:]])):
        assert client.post("/api/submit", content=body).status_code == 413
    assert inbox.next_round("ada") is not None


# --- what is given out ------------------------------------------------------------------------------------------------


def test_every_answer_has_the_headers(client):
    for path in ("/", "/app.js", "/style.css", "/api/runs", "/nowhere"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';") and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


def test_the_page_asks_nothing_of_another_server_and_has_nothing_inline(client):
    page = client.get("/").text
    assert "http://" not in page and "https://" not in page and "style=" not in page and "onclick" not in page
    assert page.count("<script") == 1 and "<script src=" in page
    files = sorted(file.name for file in (Path(server.__file__).parent / "static").glob("*.js"))
    assert "app.js" in files
    for file in files:
        text = client.get(f"/{file}").text
        assert text and not any(word in text for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval("))


def test_markup_in_an_artifact_is_never_a_document(client):
    address = f"/artifact/run/{shown(client)[TEXTS['0.0.0']]}"
    answer = client.get(address)
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/%2e%2e/server.py",
        "/static/app.js",
        "/inbox.sqlite",
        "/artifact/run/..%2f..%2finbox.sqlite",
        "/artifact/run/0.0.0",
        "/artifact/..%2frun/inbox.sqlite",
        "/artifact/run//etc/passwd",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_file_of_the_machine_is_reachable(client, path):
    answer = client.get(path)
    assert answer.status_code in (404, 422) and not answer.text.startswith(("SQLite", "root:", '"""'))


def test_ids_tell_nothing_and_every_rater_has_an_order_of_their_own(client):
    for query in TEXTS:
        assert query not in client.get("/api/round", params={"run": "run", "rater": "ada"}).text
    seen = {tuple(shown(client, f"rater {i}")) for i in range(12)}
    assert len(seen) > 4 and tuple(shown(client, "ada")) == tuple(shown(client, "ada"))


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_order_arrives_as_queries(client, inbox):
    ids = shown(client)
    groups = [[ids["third"]], [ids[TEXTS["0.0.0"]], ids["fourth"]]]
    assert client.post("/api/submit", json=order(groups, skipped=[ids["second"]])).status_code == 200
    assert inbox.final("0.0") == []  # it can still be taken back
    assert client.post("/api/seal", json={"run": "run", "rater": "ada"}).status_code == 200
    (answer,) = inbox.final("0.0")
    assert answer.groups == (("0.0.2",), ("0.0.0", "0.0.3")) and answer.skipped == ("0.0.1",)


def test_sent_twice_it_counts_once_also_after_the_round(client, inbox):
    message = order([list(shown(client).values())])
    first = client.post("/api/submit", json=message).json()
    assert client.post("/api/submit", json=message).json() == first
    inbox.close_round("0.0")
    assert client.post("/api/submit", json=message).json() == first


def test_undo_and_too_late_to_undo(client, inbox):
    ids = list(shown(client).values())
    submit = lambda **how: client.post("/api/submit", json=order([ids], **how)).json()["answer"]  # noqa: E731
    undo = {"run": "run", "rater": "ada", "answer": submit()}
    assert client.post("/api/undo", json={**undo, "rater": "bob"}).status_code == 409
    assert client.post("/api/undo", json=undo).status_code == 200
    assert list(shown(client).values()) == ids
    undo["answer"] = submit(token="u" * 16)
    client.post("/api/seal", json={"run": "run", "rater": "ada"})
    assert client.post("/api/undo", json=undo).status_code == 409
    assert len(inbox.final("0.0")) == 1


def test_late_and_repeated_answers_are_409_and_change_nothing(client, inbox):
    ids = list(shown(client).values())
    client.post("/api/submit", json=order([ids]))
    again = client.post("/api/submit", json=order([ids[:1]], token="u" * 16))
    assert again.status_code == 409 and "answered round 0.0 before" in again.json()["message"]
    inbox.open_round("0.1", [Item("0.1.0", "text/plain", b"new")])
    late = client.post("/api/submit", json=order([ids], rater="bob", token="v" * 16))
    assert late.status_code == 409 and "over" in late.json()["message"]
    inbox.seal("ada")
    (answer,) = inbox.final("0.0")
    assert answer.rater == "ada" and len(answer.groups[0]) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"rater": "  "},
        {"rater": "x" * 61},
        {"run": "other"},
        {"groups": [["0.0.0"]]},
        {"groups": "abc"},
        {"token": "short"},
        {"surplus": 1},
    ],
)
def test_what_makes_no_sense_is_refused_in_words(client, inbox, changes):
    answer = client.post("/api/submit", json=order([list(shown(client).values())], **changes))
    assert answer.status_code == 422 and answer.json()["message"]
    assert inbox.next_round("ada") is not None and inbox.next_round("") is not None


def test_a_step_is_made_from_what_a_person_ranked(tmp_path):
    """Asked through People, the sphere is descended by a rater who sees only text, in an order of their own."""
    parameters = Parameters.from_vector(torch.full((6,), 2.0, dtype=torch.float64))
    session = Session(GradientStrategy(RankEstimator(epsilon=0.1, probes=6), SGD(lr=0.3)), parameters)
    people = People(Sphere(), folder=str(tmp_path))
    before = float((parameters.flat() ** 2).sum())
    with TestClient(create_app({"run": tmp_path}, TOKEN), base_url=HOST) as client:
        client.get(f"/?token={TOKEN}")
        client.headers.update({"X-CSRF-Token": client.get("/api/runs").json()["csrf"], "Origin": HOST})
        for step in range(4):
            queries = session.ask()
            people.submit(queries, parameters)
            assert people.poll() == []  # not yet is not a failure
            ids = shown(client)
            groups = [[ids[text]] for text in sorted(ids, key=float)]
            message = order(groups, round=queries[0].id.rpartition(".")[0], token=f"{step}" * 16)
            assert client.post("/api/submit", json=message).status_code == 200
            client.post("/api/seal", json={"run": "run", "rater": "ada"})
            session.tell_all(people.poll())
            session.advance()
    assert session.steps == 4 and float((parameters.flat() ** 2).sum()) < 0.7 * before


class Sphere:
    """Shows a candidate as the text of its squared norm."""

    def render(self, candidate):
        return repr(float(candidate @ candidate))


def test_serve_needs_an_inbox_and_says_so(tmp_path):
    code = "import sys, typer; from blackbox.cli.serve import serve; typer.run(serve)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "nobody is asked there" in done.stderr
    assert not list(tmp_path.iterdir())
