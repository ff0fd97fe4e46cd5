"""What the server of the page gives out of the past, and what it takes of steering, checks and pins."""

import json

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the page needs the extra web")
pytest.importorskip("httpx", reason="fastapi's test client needs httpx")

from fastapi.testclient import TestClient

from oracles.human import Checks, Inbox, Item, Rules, Wishes
from oracles.human.web.server import create_app

TOKEN = "a-token-of-the-tests-own"
HOST = "http://127.0.0.1:8787"


@pytest.fixture
def inbox(tmp_path):
    """One round that ann has judged, and an open one."""
    inbox = Inbox(tmp_path / "inbox.sqlite")
    for number in range(2):
        inbox.open_round(
            f"{number}.0",
            [
                Item(f"{number}.0.{i}", "image/png", b"picture %d %d" % (number, i), point=np.float64(i).tobytes())
                for i in range(3)
            ],
        )
        if number == 0:
            inbox.submit("0.0", "ann", [["0.0.2"], ["0.0.0"], ["0.0.1"]], [], "ann's token of round 0")
    return inbox


@pytest.fixture
def client(inbox):
    with TestClient(create_app({"run": inbox.path.parent}, TOKEN), base_url=HOST) as client:
        client.get(f"/?token={TOKEN}")
        client.headers.update({"X-CSRF-Token": client.get("/api/runs").json()["csrf"], "Origin": HOST})
        yield client


def artifact_of(inbox, query):
    return next(item.artifact for item in inbox.round(query.rpartition(".")[0]).items if item.query == query)


def send(client, path, rater="ann", **message):
    return client.post(f"/api/{path}", json={"run": "run", "rater": rater, **message})


def get(client, path, rater="ann", **facts):
    return client.get(f"/api/{path}", params={"run": "run", "rater": rater, **facts})


def test_the_history_names_the_best_by_opaque_id_and_no_query(client, inbox):
    told = get(client, "history").json()
    (past,) = told["rounds"]
    assert past["number"] == 1 and past["raters"] == ["ann"] and told["more"] is None
    (best,) = past["best"]
    assert client.get(f"/artifact/run/{best['id']}").content == b"picture 0 2" and best["has_point"]
    assert not any(f"{n}.0.{i}" in json.dumps(told) for n in range(2) for i in range(3))
    assert get(client, "history", before=1).json() == {"rounds": [], "more": None}
    assert get(client, "history", before=0).status_code == 422


def test_pins_are_given_to_their_rater_alone(client, inbox):
    artifact = artifact_of(inbox, "1.0.1")
    assert send(client, "pin", artifact=artifact, pinned=True).status_code == 200
    assert [pin["id"] for pin in get(client, "history").json()["pins"]] == [artifact]
    assert get(client, "history", "bob").json()["pins"] == []
    shown = {item["id"]: item["pinned"] for item in get(client, "round").json()["round"]["items"]}
    assert shown == {one: one == artifact for one in shown}
    assert send(client, "pin", artifact=artifact, pinned=False).status_code == 200
    assert get(client, "history").json()["pins"] == []
    assert send(client, "pin", artifact="nobody", pinned=True).status_code == 422


def test_going_on_from_the_best_closes_the_open_round_for_all(client, inbox):
    ids = [item["id"] for item in get(client, "round", "bob").json()["round"]["items"]]
    assert send(client, "branch", artifact=artifact_of(inbox, "1.0.0")).status_code == 409  # being judged
    assert send(client, "branch", artifact=artifact_of(inbox, "0.0.2")).status_code == 200
    late = send(client, "submit", "bob", round="1.0", groups=[ids], token="t" * 16)
    assert late.status_code == 409 and inbox.final("1.0") == []
    told = get(client, "progress", "bob", round="1.0").json()
    assert told["over"] == "This round is over: ann went on from an earlier candidate." and told["open"] is None
    assert get(client, "history", "bob").json()["wishes"] == ["ann went on from an earlier candidate"]


def test_steering_needs_the_header_of_the_page(client, inbox):
    client.headers["X-CSRF-Token"] = "0" * 64
    for path, message in (("branch", {"artifact": artifact_of(inbox, "0.0.2")}), ("radius", {"wish": "wilder"})):
        assert send(client, path, **message).status_code == 403
    assert Wishes(inbox).all() == []


def test_closer_and_wilder_are_steps_that_undo_each_other(client, inbox):
    assert [send(client, "radius", wish=w).json()["factor"] for w in ("wilder", "closer", "closer")] == pytest.approx(
        [1.4, 1.0, 1 / 1.4]
    )
    assert get(client, "progress").json()["factor_waits"] is True
    assert send(client, "radius", wish="wildest").status_code == 422
    assert get(client, "history").json()["wishes"] == ["ann asked for closer candidates: radius times 0.71"]


def test_where_things_stand(client, inbox):
    inbox.rules = Rules(quorum=2)
    inbox.submit("1.0", "bob", [["1.0.1"]], [], "bob's token of round 1")
    told = get(client, "progress", round="1.0").json()
    facts = {"open": "1.0", "done": 1, "mine": 1, "answered": 1, "quorum": 2, "held": False, "rendering": None}
    assert facts.items() <= told.items() and told["over"] is None
    assert get(client, "progress", round="0.0").json()["over"].startswith("This round is over: it has all")
    get(client, "round", "ann")
    assert get(client, "round", "cem").json()["round"] is None and get(client, "progress", "cem").json()["held"]


def test_a_check_comes_before_the_round_and_only_the_inbox_hears_of_it(client, inbox):
    inbox.rules = Rules(check_every=1)
    shown = get(client, "round").json()["round"]
    assert shown["check"] is not None and len(shown["items"]) == 2
    ids = [item["id"] for item in shown["items"]]
    assert send(client, "check", "bob", check=shown["check"], groups=[ids]).status_code == 409
    assert send(client, "check", check=shown["check"], groups=[["nobody"]]).status_code == 422
    assert send(client, "check", check=shown["check"], groups=[[one] for one in ids]).status_code == 200
    assert get(client, "round").json()["round"]["id"] == "1.0"
    assert [one.asked for one in Checks(inbox).consistency()] == [1] and inbox.final("1.0") == []


def test_a_file_to_save_and_parts_of_it(client, inbox):
    address = f"/artifact/run/{artifact_of(inbox, '1.0.0')}"
    saved = client.get(address, params={"save": True})
    name = saved.headers["content-disposition"]
    assert name.startswith('attachment; filename="blackbox-') and name.endswith('.png"') and "1.0" not in name
    assert "content-disposition" not in client.get(address).headers
    for asked, status, data in (
        ("bytes=0-3", 206, b"pict"),
        ("bytes=8-", 206, b"1 0"),
        ("bytes=8-999", 206, b"1 0"),
        ("bytes=99-", 200, b"picture 1 0"),
        ("bytes=-3", 200, b"picture 1 0"),
        ("bytes=5-2", 200, b"picture 1 0"),
        ("nonsense", 200, b"picture 1 0"),
    ):
        part = client.get(address, headers={"Range": asked})
        assert (part.status_code, part.content) == (status, data), asked
        assert part.headers["content-security-policy"] == "default-src 'none'; sandbox"
