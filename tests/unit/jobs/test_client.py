"""The client against peers that are not, or not quite, Ray's dashboard; each test's peer is a real server."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from typing import Any

import pytest

from distill_ray.errors import ClusterError, UsageError
from distill_ray.jobs import client as job_client
from distill_ray.jobs.address import Token, dashboard_address
from distill_ray.jobs.client import ClusterFacts, JobClient, python_notice

RAY = metadata.version("ray")
PYTHON = "3.11.7"
Answers = dict[str, tuple[int, str]]


def dashboard(**changes: tuple[int, str]) -> Answers:
    """What a Ray dashboard answers to the first questions; `changes` by the last word of the path."""
    nodes = [
        {"state": "ALIVE", "resources_total": {"CPU": 2.0, "GPU": 1.0}},
        {"state": "ALIVE", "resources_total": {"CPU": 4.0}},
        {"state": "DEAD", "resources_total": {"CPU": 8.0}},
    ]
    answers = {
        "version": (200, json.dumps({"ray_version": RAY})),
        "cluster_metadata": (200, json.dumps({"data": {"pythonVersion": PYTHON}})),
        "nodes": (200, json.dumps({"data": {"result": {"result": nodes}}})),
    }
    return {**answers, **changes}


class Peer:
    """An HTTP server; `requests` are what it was asked: method, path, headers, body."""

    def __init__(self, answers: Answers) -> None:
        peer = self
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                peer.requests.append((self.command, self.path, dict(self.headers), body))
                last = self.path.partition("?")[0].rstrip("/").rpartition("/")[2]
                status, text = answers.get(last, (404, "404: Not Found"))
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", text)
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def client(self, token: str | None = None) -> JobClient:
        return JobClient(
            dashboard_address(self.url, {}), Token(value=token, source="the test") if token else None
        )


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    started: list[Peer] = []

    def start(answers: Answers) -> Peer:
        started.append(Peer(answers))
        return started[-1]

    yield start
    for each in started:
        each.server.shutdown()
        each.server.server_close()


def test_a_ray_of_the_same_version_says_what_it_has(peer):
    facts = peer(dashboard()).client().check()
    assert (facts.ray_version, facts.python_version) == (RAY, PYTHON)
    assert facts.resources == {"CPU": 6.0, "GPU": 1.0}


def nodes(*resources: dict[str, float]) -> tuple[int, str]:
    alive = [{"state": "ALIVE", "resources_total": each} for each in resources]
    return 200, json.dumps({"data": {"result": {"result": alive}}})


def test_a_dashboard_that_has_just_started_is_asked_for_its_nodes_again(peer, monkeypatch):
    answers = dashboard(nodes=nodes())
    client = peer(answers).client()
    named = iter([nodes({}), nodes({"CPU": 1.0})])
    monkeypatch.setattr(job_client.time, "sleep", lambda _: answers.update(nodes=next(named)))
    said: list[str] = []
    assert client.check(said.append).resources == {"CPU": 1.0}
    assert len(said) == 1
    assert "is starting: waiting for its first node" in said[0]


def test_a_dashboard_that_never_names_a_node_is_given_up(peer, monkeypatch):
    monkeypatch.setattr(job_client, "STARTED_WITHIN_S", 0.3)
    with pytest.raises(ClusterError, match="names no node yet; try again"):
        peer(dashboard(nodes=nodes())).client().check()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"version": (200, json.dumps({"ray_version": "2.9.0"}))}, "runs Ray 2.9.0 and this program Ray"),
        (dashboard(cluster_metadata=(200, '{"data": {"pythonVersion": "3.9.2"}}')), "runs Python 3.9.2"),
        ({}, "not a Ray dashboard"),
        ({"version": (200, "<html>nginx</html>")}, "not a Ray dashboard"),
        ({"version": (200, "[]")}, "not a Ray dashboard"),
        ({"version": (200, "{}")}, "not a Ray dashboard"),
        ({"version": (502, "<html>Bad gateway</html>")}, "not a Ray dashboard"),
        ({"version": (500, "Traceback\nValueError: it broke")}, "answers 500: ValueError: it broke"),
        ({"version": (401, "Unauthorized")}, "asks for a token: give --token-file"),
    ],
)
def test_other_peers_get_one_sentence(peer, answers, said):
    with pytest.raises(ClusterError) as caught:
        peer(answers).client().check()
    assert said in str(caught.value)


def test_a_refused_token_is_named_by_its_source_only(peer):
    with pytest.raises(ClusterError, match="refuses the token of the test") as caught:
        peer({"version": (403, "Forbidden: secret")}).client("secret").check()
    assert "secret" not in str(caught.value)


def test_the_token_goes_with_every_request_but_to_nobody_else(peer):
    elsewhere = peer(dashboard())
    ray = peer(dashboard(nodes=(302, f"{elsewhere.url}/nodes")))
    with pytest.raises(ClusterError, match="302"):
        ray.client("secret").check()
    assert [headers["Authorization"] for _, _, headers, _ in ray.requests] == ["Bearer secret"] * 3
    assert elsewhere.requests == []


@pytest.fixture
def silent_port(monkeypatch):
    """A port of this machine where nothing listens; nor does a head, in the place of its usual port."""
    with socket.socket() as unused, socket.socket() as no_head:
        unused.bind(("127.0.0.1", 0))
        no_head.bind(("127.0.0.1", 0))
        monkeypatch.setattr(job_client, "HEAD_PORT", no_head.getsockname()[1])
        monkeypatch.setattr(job_client, "_PAUSE_S", 0.02)
        yield unused.getsockname()[1]


def test_nothing_listens(silent_port, monkeypatch):
    monkeypatch.setattr(job_client, "BEGUN_WITHIN_S", 0.1)
    said: list[str] = []
    with pytest.raises(ClusterError, match=r"nothing listens at http://127\.0\.0\.1:"):
        JobClient(dashboard_address(f"http://127.0.0.1:{silent_port}", {}), None).check(said.append)
    url = f"http://127.0.0.1:{silent_port}"
    assert said == [f"nothing listens at {url} yet: 0.1 s are given to one that is starting"]


def test_nothing_listens_elsewhere_where_no_head_is(silent_port, monkeypatch):
    client = JobClient(dashboard_address(f"http://ray.example:{silent_port}", {}), None)
    found = socket.getaddrinfo("127.0.0.1", silent_port, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *_, **__: found)
    said: list[str] = []
    with pytest.raises(ClusterError, match=r"nothing listens at http://ray\.example:"):
        client.check(said.append)
    assert said == []


def test_a_dashboard_that_does_not_listen_yet_is_waited_for_where_a_head_does(peer, silent_port, monkeypatch):
    """The dashboard comes some seconds after the head, which the user has just started."""
    monkeypatch.setattr(job_client, "BEGUN_WITHIN_S", 0.0)
    later = peer(dashboard())
    client = JobClient(dashboard_address(f"http://127.0.0.1:{silent_port}", {}), None)

    def start(_: float) -> None:
        client.address = dashboard_address(later.url, {})

    monkeypatch.setattr(job_client.time, "sleep", start)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as head:
        monkeypatch.setattr(job_client, "HEAD_PORT", head.getsockname()[1])

        def answer() -> None:
            connection, _ = head.accept()
            with connection:
                connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
                connection.recv(4096)

        threading.Thread(target=answer, daemon=True).start()
        assert client.check(said.append).resources == {"CPU": 6.0, "GPU": 1.0}
    starting = f"the cluster at http://127.0.0.1:{silent_port} is starting: waiting for its dashboard"
    assert said == [starting]


def test_a_name_with_several_addresses_that_swallow_everything_is_given_up_in_time(monkeypatch):
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):  # the queue of those who wait is full; the kernel drops whoever else knocks
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        found = socket.getaddrinfo(*full.getsockname(), type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found * 3)
        client = JobClient(dashboard_address("http://far.example:8265", {}), None)
        begun = time.monotonic()
        with pytest.raises(ClusterError, match=r"far\.example:8265 gives no answer within"):
            client.check()
    assert time.monotonic() - begun < 4.5


def test_a_peer_that_accepts_and_is_silent_is_given_up(monkeypatch):
    assert job_client.ANSWER_WITHIN_S < 5
    monkeypatch.setattr(job_client, "ANSWER_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = JobClient(dashboard_address(f"http://127.0.0.1:{silent.getsockname()[1]}", {}), None)
        with pytest.raises(ClusterError, match="gives no answer within"):
            client.check()


def test_a_peer_that_speaks_something_else():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def hang_up() -> None:
            connection, _ = other.accept()
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        client = JobClient(dashboard_address(f"http://127.0.0.1:{other.getsockname()[1]}", {}), None)
        with pytest.raises(ClusterError, match="not a Ray dashboard"):
            client.check()


def test_a_tunnel_to_nothing_hangs_up():
    with socket.create_server(("127.0.0.1", 0)) as tunnel:
        threading.Thread(target=lambda: tunnel.accept()[0].close(), daemon=True).start()
        client = JobClient(dashboard_address(f"http://127.0.0.1:{tunnel.getsockname()[1]}", {}), None)
        with pytest.raises(ClusterError, match="without an answer: is the cluster running and the tunnel"):
            client.check()


def test_a_network_without_a_way_there(monkeypatch):
    def unreachable(*arguments, **named):
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(ClusterError, match=r"http://10\.0\.0\.1:8265 cannot be reached: No route to host"):
        JobClient(dashboard_address("http://10.0.0.1:8265", {}), None).check()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Job is currently running.", ""),  # as the state says
        ("Job failed.", ""),
        ("Job has not started yet. It may be waiting for resources", "It may be waiting for resources"),
        (
            "Job failed with exit code 2, last available logs (truncated):\nelse\n",
            "Job failed with exit code 2",
        ),
        (
            'Job failed, last available logs (truncated):\ndistill-ray-error {"message": "no audio there"}\n',
            "no audio there",
        ),
    ],
)
def test_a_job_says_why_and_its_state_once(peer, message, shown):
    answer = json.dumps({"submission_id": "birds", "status": "FAILED", "message": message})
    assert peer({"birds": (200, answer)}).client().job("birds").message == shown


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "x" * 70])
def test_a_host_that_does_not_exist(host):
    client = JobClient(dashboard_address(f"http://{host}:8265", {}), None)
    with pytest.raises(ClusterError, match=f"there is no host named {re.escape(host)}"):
        client.check()


def test_an_unknown_job(peer):
    with pytest.raises(UsageError, match="knows no job 'nope'; distill-ray jobs list"):
        peer({"nope": (404, "Job nope does not exist")}).client().job("nope")


@pytest.mark.parametrize("job_id", ["", ".", ".."])
def test_what_would_be_another_path_is_no_job(peer, job_id):
    with pytest.raises(UsageError, match="knows no job"):
        peer({}).client().job(job_id)


def test_a_name_that_is_taken(peer):
    told = "Traceback\nValueError: Job with submission_id a already exists. Please use another."
    with pytest.raises(UsageError, match="already has a job named a; choose another --name"):
        peer({"jobs": (400, told)}).client().submit({"submission_id": "a"})


def test_a_package_is_sent_once(peer):
    there, away = peer({"p.zip": (200, "")}), peer({"q.zip": (404, "does not exist")})
    assert there.client().upload("p.zip", b"content") == "gcs://p.zip"
    assert [method for method, *_ in there.requests] == ["GET"]
    with pytest.raises(ClusterError):  # this peer answers 404 to the PUT as well
        away.client().upload("q.zip", b"content")
    assert [(method, body) for method, _, _, body in away.requests] == [("GET", b""), ("PUT", b"content")]


def test_jobs_are_those_that_were_submitted_the_oldest_first(peer):
    jobs = [
        {"submission_id": "b", "status": "RUNNING", "start_time": 2000, "metadata": {"output": "x"}},
        {"submission_id": "a", "status": "FAILED", "start_time": 1000, "end_time": 0, "driver_exit_code": 4},
        {"submission_id": None, "job_id": "01", "type": "DRIVER", "status": "RUNNING"},
    ]
    first, second = peer({"jobs": (200, json.dumps(jobs))}).client().jobs()
    assert (first.job_id, first.status, first.exit_code, first.ended) == ("a", "failed", 4, None)
    assert first.is_over()
    assert (second.started, second.metadata["output"], second.is_over()) == (2.0, "x", False)


def test_another_python_is_worth_a_notice():
    other = ClusterFacts(ray_version=RAY, python_version="3.99.1", resources={})
    same = ClusterFacts(ray_version=RAY, python_version=sys.version.split()[0], resources={})
    assert "3.99.1" in str(python_notice(other))
    assert python_notice(same) is None


NO_AGENT = (500, "Traceback\nException: No available agent to submit job, please try again later.")


def test_a_cluster_that_is_starting_is_waited_for_and_that_is_said(peer, monkeypatch):
    answers = {"jobs": NO_AGENT}
    client = peer(answers).client()
    ready = (200, json.dumps({"submission_id": "a"}))
    monkeypatch.setattr(job_client.time, "sleep", lambda _: answers.update(jobs=ready))
    said: list[str] = []
    assert client.submit({"submission_id": "a"}, said.append) == "a"
    assert len(said) == 1
    assert "is starting: waiting for the agent that takes jobs" in said[0]


def test_an_agent_that_never_comes_is_waited_for_so_long_and_no_longer(peer, monkeypatch):
    monkeypatch.setattr(job_client, "STARTED_WITHIN_S", 0.2)
    monkeypatch.setattr(job_client, "_PAUSE_S", 0.05)
    with pytest.raises(ClusterError, match="answers 500: Exception: No available agent"):
        peer({"jobs": NO_AGENT}).client().submit({"submission_id": "a"})
