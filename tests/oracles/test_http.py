"""The HTTP oracle against servers on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.console  # noqa: F401 (draws a random number when it is first imported)
import torch

from blackbox.budget import Budget
from blackbox.cli.main import main
from blackbox.config.loader import load
from blackbox.errors import UserError
from blackbox.estimators import CentralDifference, RankEstimator
from blackbox.experiment import Experiment
from blackbox.feedback import Failed, Feedback, Ranking, Values, add_cost
from blackbox.journal import Journal
from blackbox.noise import Gaussian
from blackbox.optimizers import SGD
from blackbox.parameters import Parameters
from blackbox.probe import Context, DenseCandidate, Payload, Query
from blackbox.result import Result, Status
from blackbox.run import run
from blackbox.session import Session
from blackbox.strategies import GradientStrategy
from blackbox.testing.oracles import OracleSuite
from oracles import Cached
from oracles.http import HttpOracle, HttpTransport, Refused
from oracles.remote import Nonsense, Price, RemoteFunction

Answer = Callable[[dict[str, Any]], Any]


class Service:
    """A server on loopback; ``answer`` makes a reply of a question: JSON, or (status, headers, bytes)."""

    def __init__(self, answer: Answer, port: int = 0) -> None:
        self.answer = answer
        self.questions: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.dead = False
        self.under_way = self.most_under_way = 0
        lock, service = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if service.dead:  # a connection that was kept open
                    self.close_connection = True
                    return
                with lock:
                    service.under_way += 1
                    service.most_under_way = max(service.most_under_way, service.under_way)
                    service.questions.append(json.loads(data))
                    service.headers.append(dict(self.headers))
                    service.times.append(time.monotonic())
                reply = service.answer(json.loads(data))
                with lock:
                    service.under_way -= 1
                status, headers, body = reply if isinstance(reply, tuple) else (200, {}, json.dumps(reply).encode())
                self.send_response(status)
                for name, value in {
                    "Content-Length": "" if isinstance(body, Iterator) else str(len(body)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in body if isinstance(body, Iterator) else [body]:
                    self.wfile.write(piece)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: Any) -> None:
                pass  # clients that gave up

        self.server = Quiet(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/judge"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        if self.dead:
            return
        self.dead = True
        self.server.shutdown()
        self.server.server_close()


def squares(question: dict[str, Any]) -> Any:
    return {"values": [sum(x * x for x in candidate) for candidate in question["candidates"]]}


def order(question: dict[str, Any]) -> Any:
    values = squares(question)["values"]
    return {"ranking": sorted(range(len(values)), key=values.__getitem__)}


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    """Starts services; they end with the test."""
    services: list[Service] = []

    def start(answer: Answer, port: int = 0) -> Service:
        services.append(Service(answer, port))
        return services[-1]

    yield start
    for service in services:
        service.close()


@pytest.fixture(autouse=True)
def close_connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened: list[HttpTransport] = []
    open_one = HttpTransport.open

    def open_and_note(transport: HttpTransport) -> None:
        opened.append(transport)
        open_one(transport)

    monkeypatch.setattr(HttpTransport, "open", open_and_note)
    yield
    for transport in opened:
        transport.close()


def ask(oracle: Any, queries: list[Query], parameters: Parameters) -> list[Feedback]:
    oracle.submit(queries, parameters)
    feedback: list[Feedback] = []
    while {i for one in feedback for i in one.ids} < {q.id for q in queries}:
        feedback += oracle.poll(1)
    return feedback


def values(feedback: list[Feedback]) -> dict[str, float]:
    return {i: float(v) for f in feedback if isinstance(f, Values) for i, v in zip(f.ids, f.values, strict=True)}


def failures(feedback: list[Feedback]) -> dict[str, str]:
    return {i: f.reason for f in feedback if isinstance(f, Failed) for i in f.ids}


def spent(feedback: list[Feedback]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in feedback:
        add_cost(total, one.cost)
    return total


class TestValues(OracleSuite):
    @pytest.fixture
    def oracle(self, serve: Any) -> Iterator[Any]:
        oracle = HttpOracle(serve(squares).url, batch=2, price_per_query=0.1)
        yield oracle
        oracle.close()


class TestRanking(OracleSuite):
    @pytest.fixture
    def oracle(self, serve: Any) -> Iterator[Any]:
        oracle = HttpOracle(serve(order).url, answers="ranking")
        yield oracle
        oracle.close()


# What is said


def test_batches_carry_candidates_and_their_context(serve, parameters):
    service = serve(squares)
    seven, eight = Context(batch_seed=7), Context(indices=(1, 2), reset_seed=8)
    queries = [Query(f"{i}", DenseCandidate(np.array([i, 1.0, 0])), context=seven) for i in range(3)]
    queries += [Query("3", DenseCandidate(np.array([3.0, 1, 0])), context=eight)]
    oracle = HttpOracle(service.url, batch=2)
    assert values(ask(oracle, queries, parameters)) == {"0": 1.0, "1": 2.0, "2": 5.0, "3": 10.0}
    assert oracle.cost(queries) == {"queries": 4}
    said = sorted(service.questions, key=lambda question: question["candidates"])
    assert said == [
        {"candidates": [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]], "context": {"batch_seed": 7}},
        {"candidates": [[2.0, 1.0, 0.0]], "context": {"batch_seed": 7}},
        {"candidates": [[3.0, 1.0, 0.0]], "context": {"indices": [1, 2], "reset_seed": 8}},
    ]


def test_structured_candidates_go_out_as_objects_and_examples_come_back(serve, parameters):
    service = serve(lambda question: {"values": [[c["a"], c["a"] + 1] for c in question["candidates"]]})
    oracle = HttpOracle(service.url)
    oracle.per_example = True
    (feedback,) = ask(oracle, [Query("0", Payload("p", {"a": 4, "b": [[1], [2]]}))], parameters)
    assert isinstance(feedback, Values) and feedback.values.tolist() == [[4.0, 5.0]]
    assert service.questions[0]["candidates"] == [{"a": 4, "b": [[1], [2]]}]


def test_an_order_keeps_ties_and_what_was_not_judged(serve, parameters, asks):
    oracle = HttpOracle(serve(lambda question: {"ranking": [2, [0, 1]]}).url, answers="ranking")
    (feedback,) = ask(oracle, asks([[0, 0, 0]] * 4), parameters)
    assert isinstance(feedback, Ranking)
    assert feedback.groups == (("0.0.2",), ("0.0.0", "0.0.1")) and feedback.skipped == ("0.0.3",)


def test_candidates_that_are_not_finite_are_not_sent(serve, parameters):
    service = serve(squares)
    query = Query("0", DenseCandidate(np.array([np.nan, 0, 0])))
    feedback = ask(HttpOracle(service.url), [query], parameters)
    assert failures(feedback)["0"].startswith("ValueError") and not service.questions


# What goes wrong


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((200, {}, b"<html><body>Log in first</body></html>"), "no JSON: '<html><body>Log in first"),
        ((200, {}, b""), "no JSON: it is empty"),
        ({"values": [1.0]}, "1 values for 2 candidates"),
        ({"values": 1.0}, "expected"),
        ({"value": [1.0, 2.0]}, "expected"),
        ([1.0, 2.0], "expected"),
        ({"values": ["1.0", "2.0"]}, "'1.0' is no number"),
        ({"values": [True, False]}, "is no number"),
        ({"values": [[[1]], [[2]]]}, "is no number"),
        ((200, {}, b'{"values": [NaN, Infinity]}'), "not finite"),
        ({"values": [None, None]}, "no value was given"),
        ({"values": [10**400, 10**400]}, "too large"),
        ((404, {}, b"no such page"), "HTTP 404: 'no such page'"),
        ((302, {"Location": "http://example.org/x?key=1"}, b""), "redirects to http://example.org, which is not"),
        ((500, {}, b"oops"), "HTTP 500: 'oops' (tried 2 times)"),
        ((503, {"Retry-After": "3600"}, b""), "asks to wait 3600 s"),
    ],
)  # fmt: skip
def test_nonsense_is_a_failure_with_a_reason(reply, reason, serve, parameters, asks):
    oracle = HttpOracle(serve(lambda question: reply).url, attempts=2, backoff=0.001)
    feedback = ask(oracle, asks([[1, 0, 0], [2, 0, 0]]), parameters)
    found = failures(feedback)
    assert set(found) == {"0.0.0", "0.0.1"}
    assert reason in found["0.0.0"]


def test_one_bad_value_costs_no_other_its_own(serve, parameters, asks):
    oracle = HttpOracle(serve(lambda question: {"values": [1.0, None, 3.0]}).url)
    feedback = ask(oracle, asks([[1, 0, 0]] * 3), parameters)
    assert values(feedback) == {"0.0.0": 1.0, "0.0.2": 3.0} and list(failures(feedback)) == ["0.0.1"]
    assert spent(feedback)["queries"] == 3


@pytest.mark.parametrize("ranking", [[0, 0], [5], ["a"], [[0], None], "01"])
def test_an_impossible_order_is_a_failure(ranking, serve, parameters, asks):
    oracle = HttpOracle(serve(lambda question: {"ranking": ranking}).url, answers="ranking")
    assert "Nonsense" in failures(ask(oracle, asks([[1, 0, 0], [2, 0, 0]]), parameters))["0.0.0"]


def test_a_slow_service_and_one_that_drips_are_given_up(serve, parameters, asks):
    release = threading.Event()

    def slow(question: Any) -> Any:
        release.wait(5)
        return squares(question)

    began = time.monotonic()
    oracle = HttpOracle(serve(slow).url, timeout=0.2, attempts=1)
    assert "TooSlow: no reply within 0.2 s" in failures(ask(oracle, asks([[1, 0, 0]]), parameters))["0.0.0"]

    def drip(question: Any) -> Any:
        def pieces() -> Iterator[bytes]:
            for _ in range(100):
                release.wait(0.05)
                yield b" "

        return 200, {"Content-Length": "100"}, pieces()

    oracle = HttpOracle(serve(drip).url, timeout=0.4, attempts=1)
    assert "no whole reply within 0.4 s" in failures(ask(oracle, asks([[1, 0, 0]]), parameters))["0.0.0"]
    assert time.monotonic() - began < 4
    release.set()


def test_a_reply_whose_headers_drip_is_given_up_as_a_whole(parameters, asks):
    """No wait is long here, so a time-out of each wait would never pass."""
    release = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + 400 * b"a":
                    connection.send(bytes([letter]))
                    if release.wait(0.02):
                        return

        dripping = threading.Thread(target=drip)
        dripping.start()
        oracle = HttpOracle(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout=0.3, attempts=1)
        began = time.monotonic()
        feedback = ask(oracle, asks([[1, 0, 0]]), parameters)
        assert time.monotonic() - began < 4  # the whole takes 8
        release.set()
        dripping.join()
    assert "TooSlow: no reply within 0.3 s" in failures(feedback)["0.0.0"]


def test_closing_drops_a_request_that_is_under_way(serve, parameters, asks):
    release = threading.Event()
    oracle = HttpOracle(serve(lambda question: release.wait(5)).url)
    oracle.submit(asks([[1, 0, 0]]), parameters)
    (request,) = oracle._open
    time.sleep(0.2)
    began = time.monotonic()
    oracle.close()
    assert isinstance(request.reply.result(timeout=5).error, InterruptedError)
    assert time.monotonic() - began < 2
    release.set()


def test_a_service_that_is_down_is_unreachable_and_costs_no_money(serve, parameters, asks):
    service = serve(squares)
    service.close()
    oracle = HttpOracle(service.url, attempts=2, backoff=0.001, price_per_query=1.0, price_per_request=5.0)
    feedback = ask(oracle, asks([[1, 0, 0]]), parameters)
    assert "Unreachable" in failures(feedback)["0.0.0"] and "tried 2 times" in failures(feedback)["0.0.0"]
    assert spent(feedback)["queries"] == 1 and spent(feedback).get("money", 0) == 0


# Trying again, pace, money


def test_a_busy_service_is_waited_for_as_long_as_it_asks(serve, parameters, asks):
    replies = iter([(429, {"Retry-After": "0.3"}, b""), (500, {}, b""), {"values": [4.0]}])
    service = serve(lambda question: next(replies))
    oracle = HttpOracle(service.url, backoff=0.05, price_per_query=1.0, price_per_request=10.0)
    assert oracle.cost(asks([[1, 0, 0]])) == {"queries": 1, "money": 11}
    feedback = ask(oracle, asks([[1, 0, 0]]), parameters)
    assert values(feedback) == {"0.0.0": 4.0}
    first, second = np.diff(service.times)
    assert first >= 0.3 and second >= 0.05  # backoff * 2, less at most half
    # The 429 did no work; the 500 may have.
    assert spent(feedback)["queries"] == 2 and spent(feedback)["requests"] == 2 and spent(feedback)["money"] == 22


def test_delays_grow_and_are_a_function_of_the_seed():
    one, same, other = (HttpTransport("http://127.0.0.1:1", backoff=1.0, seed=s) for s in (1, 1, 2))
    delays = [one._delay(1, attempt) for attempt in range(4)]
    assert all(0.5 * 2**i <= delay <= 2**i for i, delay in enumerate(delays))
    assert delays == [same._delay(1, i) for i in range(4)] != [other._delay(1, i) for i in range(4)]


def test_rate_and_concurrency_are_kept(serve, parameters, asks):
    def slow(question: Any) -> Any:
        time.sleep(0.1)
        return squares(question)

    service = serve(slow)
    ask(HttpOracle(service.url, batch=1, concurrency=3), asks([[i, 0, 0] for i in range(9)]), parameters)
    assert service.most_under_way == 3
    service = serve(squares)
    ask(HttpOracle(service.url, batch=1, concurrency=8, rate=50), asks([[i, 0, 0] for i in range(11)]), parameters)
    assert max(service.times) - min(service.times) >= 10 / 50 - 0.02


def session(journal: Path | None = None, answers: str = "value") -> Session:
    estimator: Any = (
        CentralDifference(Gaussian(), probes=4) if answers == "value" else RankEstimator(epsilon=0.1, probes=8)
    )
    strategy = GradientStrategy(estimator, SGD(lr=0.1, schedule="constant"))
    return Session(strategy, Parameters.from_vector([1.0, 2.0]), journal=Journal(journal) if journal else None)


def test_money_bounds_a_run(serve):
    oracle = HttpOracle(serve(squares).url, batch=4, price_per_query=0.1, price_per_request=1.0)
    result = run(session(), oracle, Budget(money=9.0))  # a step: 8 queries in 2 requests, 2.8
    assert result.status is Status.MONEY and result.steps == 3
    assert result.cost["money"] == pytest.approx(8.4)


def test_a_cache_around_it_saves_money(serve, parameters, asks):
    service = serve(squares)
    oracle = Cached(HttpOracle(service.url, price_per_query=1.0))
    queries = asks([[1, 0, 0], [2, 0, 0]])
    first = ask(oracle, queries, parameters)
    again = ask(oracle, [Query(f"1.{q.id}", q.candidate) for q in queries], parameters)
    assert spent(first)["money"] == 2 and "money" not in spent(again) and len(service.questions) == 1
    assert oracle.cost(queries).get("money", 0) == 0


# Secrets


def test_secrets_come_from_the_environment_and_stay_there(serve, parameters, asks, monkeypatch):
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret")
    monkeypatch.setenv("JUDGE_KEY", "k3y")
    service = serve(lambda question: (401, {}, b"s3cret is not welcome here, nor is k3y"))
    oracle = HttpOracle(service.url, token_env="JUDGE_TOKEN", headers_env={"X-Api-Key": "JUDGE_KEY"})
    reason = failures(ask(oracle, asks([[1, 0, 0]]), parameters))["0.0.0"]
    assert service.headers[0]["Authorization"] == "Bearer s3cret" and service.headers[0]["X-Api-Key"] == "k3y"
    assert "s3cret" not in reason and "k3y" not in reason and "*** is not welcome" in reason


@pytest.mark.parametrize(
    "reply",
    [
        lambda said: (200, {}, f"<html>you sent {said}</html>".encode()),
        lambda said: {"headers": said},
        lambda said: {"values": [said]},
        lambda said: (401, {}, said.encode()),
    ],
)
def test_a_service_that_echoes_a_long_secret_does_not_get_it_reported(serve, parameters, asks, monkeypatch, reply):
    secret = "sk-" + "S3CR3T" * 40  # longer than what is shown of a reply
    monkeypatch.setenv("JUDGE_TOKEN", secret)
    oracle = HttpOracle(serve(lambda question: reply(f"Bearer {secret}")).url, token_env="JUDGE_TOKEN")
    reason = failures(ask(oracle, asks([[1, 0, 0]]), parameters))["0.0.0"]
    assert "S3CR3T" not in reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": "ftp://example.org"}, "https"),
        ({"url": "https://me:pw@example.org"}, "password"),
        ({"url": "http://example.org", "token_env": "T"}, "unencrypted"),
        ({"url": "http://127.0.0.1:99999"}, "url"),
        ({"attempts": 0}, "attempts"),
        ({"rate": 0.0}, "rate"),
        ({"batch": 0}, "batch"),
        ({"batch": 2, "answers": "ranking"}, "batch"),
        ({"price_per_query": -1.0}, "price_per_query"),
    ],
)
def test_mistakes_are_told(arguments, words):
    with pytest.raises(UserError, match=words):
        HttpOracle(**{"url": "http://127.0.0.1:1", **arguments})


def test_a_variable_that_is_not_set_is_told_before_the_run(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    with pytest.raises(UserError, match="NO_SUCH_TOKEN is not set"):
        HttpOracle("http://127.0.0.1:1", token_env="NO_SUCH_TOKEN").attach(tmp_path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="making a certificate needs openssl")
def test_a_certificate_that_nobody_vouches_for_is_refused(serve, parameters, asks, tmp_path):
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", *words], check=True, capture_output=True)
    service = serve(squares)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    service.server.socket = context.wrap_socket(service.server.socket, server_side=True)
    oracle = HttpOracle(service.url.replace("http://", "https://"), attempts=1)
    reason = failures(ask(oracle, asks([[1, 0, 0]]), parameters))["0.0.0"]
    assert "can't be reached" in reason and "CERTIFICATE_VERIFY_FAILED" in reason
    assert not service.questions


# Down, slow and back again


def until_done(service: Service, folder: Path) -> Result:
    one = session(folder)
    oracle = HttpOracle(service.url, batch=2, attempts=1, timeout=5)
    result = run(one, oracle, Budget(queries=200))
    oracle.close()
    assert one.journal is not None
    one.journal.close()
    return result


def test_a_service_killed_amid_a_run_is_asked_on_when_it_is_back_and_nothing_twice(serve, tmp_path):
    answered: list[str] = []
    restarted: list[bool] = []

    def counted(question: dict[str, Any]) -> Any:
        # It dies over a question, not over a reply: an answer that was lost on its way is rightly asked for again.
        if len(answered) >= 40 and not restarted:
            threading.Thread(target=first.close).start()
            return 503, {}, b""
        answered.extend(json.dumps(candidate) for candidate in question["candidates"])
        return squares(question)

    first = serve(counted)
    stopped = until_done(first, tmp_path)
    assert stopped.status is Status.FAILURES and stopped.steps < 25
    assert any("Unreachable" in r or "Broken" in r for r in stopped.reasons)
    journal = (tmp_path / "journal.jsonl").read_text()
    restarted.append(True)
    second = serve(counted, port=first.port)
    done = until_done(second, tmp_path)
    assert done.status is Status.QUERIES and done.steps > stopped.steps
    assert (tmp_path / "journal.jsonl").read_text().startswith(journal)
    assert len(answered) == len(set(answered))  # every probe is another point


def test_an_order_from_a_service_is_followed(serve):
    oracle = HttpOracle(serve(order).url, answers="ranking")
    result = run(session(answers="ranking"), oracle, Budget(queries=400))
    assert float(result.parameters.flat().norm()) < 1.0 < 5**0.5


def test_closing_ends_what_waits(serve, parameters, asks):
    oracle = HttpOracle(serve(lambda question: (503, {"Retry-After": "30"}, b"")).url)
    oracle.submit(asks([[1, 0, 0]]), parameters)
    (request,) = oracle._open
    time.sleep(0.1)
    oracle.close()
    assert isinstance(request.reply.result(timeout=5).error, InterruptedError)


# The shipped configuration with the shipped server, and the saved secret that isn't there


@pytest.fixture
def kettle(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of configs/my_server.py."""
    script = Path(__file__).parents[2] / "configs" / "my_server.py"
    monkeypatch.setenv("MY_TOKEN", "a-secret-of-the-test")
    server = subprocess.Popen([sys.executable, script, "0"], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert server.stdout is not None
    yield server.stdout.readline().strip()
    server.kill()
    server.wait()
    server.stdout.close()


def test_the_example_runs_against_its_server(kettle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load("example:http", [f"oracle.url={kettle}", "oracle.rate=null"])
    result = Experiment(config).run()
    assert result.status is Status.MONEY and result.cost["money"] <= 0.5
    assert float((result.parameters.flat() - torch.tensor([9.0, 3.5])).norm()) < 1.0
    for path in Path("runs/http").rglob("*"):
        assert path.is_dir() or b"a-secret-of-the-test" not in path.read_bytes()


def test_a_wrong_token_ends_the_run_in_words(kettle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_TOKEN", "another")
    with pytest.raises(SystemExit) as left:
        main(["run", "example:http", "--set", f"oracle.url={kettle}"])
    told = capsys.readouterr()
    assert left.value.code == 1 and "Resume with" in told.err
    assert "HTTP 401" in Path("runs/http/result.json").read_text()


# A plain function


def test_as_a_function_of_a_batch(serve):
    def sums(question: Any) -> Any:
        assert all(len(image) == 2 and len(image[0]) == 3 for image in question["candidates"])
        return {"values": [[sum(map(sum, image)), 1.0] for image in question["candidates"]]}

    service = serve(sums)
    predict = RemoteFunction(HttpTransport(service.url), batch=4, price=Price(0.5, 1.0))
    inputs = torch.arange(60, dtype=torch.float32).view(10, 2, 3)
    outputs = predict(inputs)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, torch.stack([inputs.sum((1, 2)), torch.ones(10)], 1))
    assert predict.spent == {"queries": 10, "requests": 3, "money": 8.0}


def test_a_function_that_fails_says_why(serve):
    for reply, kind in (
        ({"values": [1.0]}, Nonsense),
        ({"values": [[1.0], [2.0]]}, Nonsense),
        ((400, {}, b""), Refused),
    ):
        predict = RemoteFunction(HttpTransport(serve(lambda question, reply=reply: reply).url))
        with pytest.raises(kind):
            predict(torch.zeros(1, 2))
