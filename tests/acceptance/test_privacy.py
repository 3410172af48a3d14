"""Who did what stays inside: strange raw ids through every door, then a search in every byte that is left anywhere.

Not searched for is what somebody put there as content: arguments, payloads, notes, results, what a task prints, and the
message ids of messages that nobody could read. Here none of that names anybody.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from tests.acceptance.conftest import Daemon
from tests.hostile.traces import PEOPLE, Found, Person, in_bytes, in_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

BLABBING = '''
"""Tasks that try to tell everybody for whom they run, in errors and in the log."""
import json, logging, structlog
from urllib.parse import quote, quote_plus
from cascadenced.workflows import subscribe

def spelled(task):
    user, group = task.user_id, task.group_id
    yield from (f"{user} of {group}", repr((user, group)), ascii([user, group]), json.dumps({"u": user, "g": group}))
    yield from (json.dumps([user, group], ensure_ascii=False), f"/u/{quote(user, safe='')}?g={quote_plus(group)}")

class Blabbing:
    """Fails in the stage that it is told."""
    name = "blabbing"
    def text(self): return list(spelled(self))[self.args["how"]]
    def fail(self, stage):
        if self.args["stage"] == stage:
            try:
                raise KeyError(self.user_id)
            except KeyError as error:
                raise ValueError(self.text()) from error
    def intake(self): self.fail("intake")
    def plan(self): self.fail("plan"); return 1
    def precheck(self): return self.text() if self.args["stage"] == "precheck" else True
    async def run(self): self.fail("run")
    def verify(self, _): self.fail("verify")

class Searching:
    """Fails in its research."""
    name = "searching"
    async def research(self): raise LookupError(f"nothing about {self.user_id} in {self.group_id!r}")
    def run(self): return "went on without"

class Logging:
    name = "logging"
    def run(self):
        for text in spelled(self):
            logging.getLogger("blab").warning("%s", text)
            structlog.get_logger().warning("blab", text=text)
            try:
                raise ValueError(text)
            except ValueError:
                logging.getLogger("blab").exception("it says %s", text)

class Loose:
    """Leaves errors behind that nobody waits for."""
    name = "loose"
    async def run(self):
        import asyncio, gc, threading, warnings
        text = " ".join(spelled(self))
        def fail(*_): raise RuntimeError(text)
        async def fail_later(): fail()
        warnings.warn(text)
        thread = threading.Thread(target=fail)
        thread.start()
        left = asyncio.create_task(fail_later())
        asyncio.get_running_loop().call_soon(fail, self.user_id)
        class Dying:
            __del__ = fail
        Dying()
        await asyncio.wait({left})  # what it raised is left where it is
        thread.join()
        del left
        gc.collect()

class Slow:
    name = "slow_one"
    async def run(self):
        import asyncio
        await asyncio.sleep(30)

@subscribe("blab.please")
async def blab(payload, user_id, group_id):
    raise RuntimeError(f"{user_id} {group_id!r} {json.dumps([user_id])}")
'''
N_SPELLINGS = 6
STAGES = ("intake", "plan", "precheck", "run", "verify")


@pytest.fixture
def blabbing(daemon: Daemon) -> Daemon:
    (daemon.folder / "blabbing.py").write_text(BLABBING)
    return daemon


async def start(daemon: Daemon, **env: str) -> None:
    more = [f"blabbing:{name}" for name in ("Blabbing", "Searching", "Logging", "Loose", "Slow", "blab")]
    plugins = ",".join([daemon.env["CASCADENCE_PLUGIN_PATHS"], *more])
    await daemon.start(CASCADENCE_PLUGIN_PATHS=plugins, UME_BROADCAST_POINTERS="true", **env)


async def test_no_raw_id_is_left_outside_the_vault(blabbing: Daemon) -> None:
    daemon = blabbing
    await start(daemon)
    seen = Seen()
    async with daemon.client() as client:
        for name, person in PEOPLE.items():
            for subject, body, headers in on_the_bus(name, person):
                await client.jetstream().publish(subject, body, headers=headers)
        await asyncio.gather(*(by_verbs(client, person, seen) for person in PEOPLE.values()))
        await everything_is_done(daemon)
        await erased(daemon, client)
        await seen.bus(client)
    await by_commands(daemon, PEOPLE["mail"], seen)
    await by_commands(daemon, PEOPLE["quoted"], seen)
    for name in ("mail", "quoted"):
        await in_the_file(daemon, PEOPLE[name])
    await everything_is_done(daemon)
    await seen.http(daemon)
    await seen.events(daemon)
    # While it runs, and no page of the log has moved out of the WAL …
    nothing_is_found(seen.found, in_files(daemon))
    assert seen.n_texts > 1000
    assert await daemon.stop() == 0
    # … and when all is at rest.
    found, n_files = in_folder(daemon.data_dir)
    nothing_is_found(found, in_bytes("\n".join(daemon.output), "the daemon's output"))
    assert n_files > 5
    assert len(daemon.output) > 1000
    loose = [line for line in daemon.output if '"loose_error"' in line]
    assert len(loose) >= 4 * len(PEOPLE)
    assert all("blabbing.py" in line for line in loose)
    alone = ("--user-id", PEOPLE["accented"].user_id, "--group-id", PEOPLE["accented"].group_id)
    for name in ("failing", "telling", "nowhere"):
        _, out, err = await daemon.command("run", name, *alone)  # without a daemon
        nothing_is_found(in_bytes(out + err, f"run {name}"))
    for command in (("log", "export"), ("runs",), ("dead-letters",), ("log", "export", "--out", "out.jsonl")):
        code, out, err = await daemon.command(*command)
        assert code == 0, err
        nothing_is_found(in_bytes(out + err, " ".join(command)))
    nothing_is_found(in_folder(daemon.folder)[0])
    assert everybody_is_in_the_vault(daemon)


async def test_no_raw_id_is_left_by_a_crash_at_any_point(blabbing: Daemon) -> None:
    daemon, n_sent = blabbing, 0
    people = [*PEOPLE.values()]
    for place in ("vault.after_write", "append.before_commit:12", "append.after_commit:40", "stage.before_effect:5"):
        await start(daemon, CASCADENCED_CRASH_AT=place)
        async with daemon.client() as client:
            for person in people:
                n_sent += 1
                body = json.dumps({**person._asdict(), "args": {"stage": "run", "how": n_sent % N_SPELLINGS}})
                try:
                    await client.jetstream().publish("ume.run.request.blabbing", body.encode(), timeout=1)
                except Exception:
                    break  # it is down, as it must be
            assert await daemon.ended() == -9
        nothing_is_found(in_folder(daemon.data_dir)[0], in_bytes("\n".join(daemon.output), "the daemon's output"))
    await start(daemon)
    await daemon.until({"type": "run.failed"}, n=4)
    assert await daemon.stop() == 0
    nothing_is_found(in_folder(daemon.data_dir)[0], in_bytes("\n".join(daemon.output), "the daemon's output"))


async def test_the_search_finds_an_id_that_is_put_where_none_belongs(daemon: Daemon) -> None:
    await daemon.start()
    user, group = PEOPLE["accented"]
    async with daemon.client() as client:
        # As content it may be there: that it is found shows that the search looks.
        body = json.dumps({"user_id": "alice", "group_id": "eng", "args": {"note": f"for {user}"}})
        await client.jetstream().publish("ume.run.request.telling", body.encode())
        event = json.dumps({"user_id": "alice", "payload": {"name": user}})
        await client.jetstream().publish("ume.event.demo.greeting", event.encode())
        await client.jetstream().publish(f"ume.{quote(group)}", b"{}")
        await daemon.until({"type": "message.dead_lettered"})
        await everything_is_done(daemon)
        seen = Seen()
        await seen.bus(client)
    await seen.http(daemon)
    live = in_files(daemon)
    assert await daemon.stop() == 0
    at_rest = in_folder(daemon.data_dir)[0]
    in_output = in_bytes("\n".join(daemon.output))
    for found in (live, at_rest):
        assert {"accented user_id", "accented group_id"} <= {trace.who for trace in found}
        assert {Path(trace.where).name for trace in found} & {"log.db", "log.db-wal"}
    assert any(trace.where.startswith("the rows of") for trace in at_rest)
    assert {trace.who for trace in in_output} == {"accented group_id"}
    assert {"/runs/:run", "/dead-letters", "the stream UME"} <= {trace.where for trace in seen.found}


async def test_a_resumed_run_still_knows_for_whom_it_runs(daemon: Daemon) -> None:
    await daemon.start()
    async with daemon.client() as client:
        body = {**PEOPLE["quoted"]._asdict(), "args": {"seconds": 30}}
        await client.jetstream().publish("ume.run.request.slow", json.dumps(body).encode())
        await daemon.until({"type": "stage.started", "stage": "run"})
    await daemon.kill()
    await daemon.start()
    await daemon.until({"type": "stage.started", "stage": "run", "attempt": 2})
    (run,) = await daemon.runs(task="slow")
    assert run["status"] == "running"
    assert len(run["user_hash"]) == 64


# ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────


def on_the_bus(name: str, who: Person) -> Iterable[tuple[str, bytes, dict[str, str] | None]]:
    """Everything that can be published, good and bad: (subject, body, headers)."""

    def body(**more: Any) -> bytes:
        return json.dumps({**who._asdict(), **more}, ensure_ascii=name != "far away").encode()

    spelled = quote(who.user_id, safe="")
    yield "ume.run.request.telling", body(), {"Nats-Msg-Id": f"{spelled}:1"}
    yield "ume.run.request.telling", body(), {"ce-id": f"{spelled}:2"}
    yield "ume.run.request.telling", body(idempotency_key=f"{who.user_id[:200]}/7"), None
    yield "ume.run.request.telling", body(), {"X-User": spelled, "traceparent": spelled[:55]}
    for n, stage in enumerate(STAGES):
        yield "ume.run.request.blabbing", body(args={"stage": stage, "how": n % N_SPELLINGS}), None
    for how in range(N_SPELLINGS):
        yield "ume.run.request.blabbing", body(args={"stage": "run", "how": how}), None
    for task in ("searching", "logging", "loose", "failing", "nowhere"):
        yield f"ume.run.request.{task}", body(), None
    for event in ("demo.greeting", "blab.please", "nobody.listens"):
        yield f"ume.event.{event}", body(payload={"name": "Ada"}), {"Nats-Msg-Id": f"{event}-{spelled}"}
    yield "ume.event.alone", json.dumps({"user_id": who.user_id, "payload": {}}).encode(), None
    yield "ume.pointer.bookmarks", body(run_id="r1"), None
    yield "ume.schedule.example", body(expr="0 9 * * 1"), {"Nats-Msg-Id": f"s-{spelled}"}
    yield "ume.schedule.example", body(calendar_event={"node": "n"}, recurrence={"a": 1}), None
    yield "ume.schedule.nowhere", body(expr="0 9 * * 1"), None
    yield "ume.idea", body(text="an idea"), {"ce-id": f"idea-{spelled}"}
    yield "ume.note", body(note="a note"), None
    yield "ume.task_run.elsewhere", body(run_id="f1", status="error"), None
    # What cannot be read.
    yield "ume.unknown", body(), {"X-User": spelled}
    yield "ume.run.request.telling", body(schema_version="9999.1"), None
    yield "ume.run.request.telling", body()[:-1], None
    yield "ume.run.request.telling", b"\xff" + body(), None
    yield "ume.run.request.telling", body() + body(), None
    yield "ume.run.request.telling", body(args=[who.user_id]), None
    yield "ume.run.request.telling", body(args=who.user_id), None
    yield "ume.run.request.telling", body(priority=who.user_id), None
    yield "ume.run.request.telling", json.dumps({**who._asdict(), "group_id": None}).encode(), None
    yield "ume.run.request.telling", json.dumps({**who._asdict(), "user_id": who.user_id + "\0"}).encode(), None
    yield "ume.run.request.telling", json.dumps({**who._asdict(), "user_id": who.user_id * 99}).encode(), None
    yield "ume.run.request.telling", json.dumps(who.user_id).encode(), None
    yield "ume.run.request.telling", json.dumps([*who]).encode(), None
    yield "ume.run.request.telling", json.dumps({who.user_id: 1, who.group_id: 2}).encode(), None
    yield "ume.pointer.bookmarks", json.dumps({"run_id": "r", "user_hash": who.user_id}).encode(), None
    yield "ume.schedule.example", body(calendar_event={"node": 7}), None
    yield "ume.idea", body(text=7), None
    yield "ume.note", body(note=None), {"Cascadence-Origin": "another"}
    yield "ume.run.request.telling", body(), {"Cascadence-Origin": "another"}


async def by_verbs(client: Any, who: Person, seen: Seen) -> None:
    """Everything that can be asked. What comes back is searched as well."""
    named = who._asdict()
    for verb, arguments in (
        ("run", {"task": "telling", **named}),
        ("run", {"task": "telling", **named, "idempotency_key": who.user_id[:200], "wait": False}),
        ("run", {"task": "blabbing", **named, "args": {"stage": "run", "how": 0}}),
        ("run", {"task": "blabbing", **named, "args": {"stage": "precheck", "how": 1}}),
        ("run", {"task": "searching", **named}),
        ("run", {"task": "nowhere", **named}),
        ("run", {"task": "telling", **named, "priority": "high"}),
        ("run", {"task": "telling", "user_id": who.user_id, "group_id": 7}),
        ("run", {"task": "telling", "user_id": who.user_id * 99, "group_id": who.group_id}),
        ("trigger", {"task": "example", **named}),
        ("dispatch", {"event": "demo.greeting", **named}),
        ("dispatch", {"event": "blab.please", **named}),
        ("dispatch", {"event": "not an event", **named}),
        ("disable", {"task": "logging", **named}),
        ("run", {"task": "logging", **named, "wait": False}),
        ("enable", {"task": "logging", **named}),
        ("pause", {"task": "hung", **named}),
        ("run", {"task": "hung", **named}),
        ("schedule", {"task": "telling", "every_s": 1, "jitter_s": 0.1, **named}),
        ("schedule", {"task": "telling", "every_s": 1, **named, "idempotency_key": who.user_id[:200]}),
        ("schedule_pause", {"task": "telling", **named}),
        ("schedule_resume", {"task": "telling", **named}),
        ("schedule", {"task": "telling", "expr": "61 * * * *", **named}),
        ("unschedule", {"task": "telling", **named}),
        ("pointer_add", {"task": "bookmarks", "run_id": "r2", **named}),
        ("pointer_add", {"task": "telling", "run_id": "r2", **named}),
        ("pointer_receive", {"task": "bookmarks", "run_id": "r3", "user_hash": "x", "user_id": who.user_id}),
        ("pointers", {"task": "bookmarks", **named}),
    ):
        reply = await client.request(f"ume.rpc.{verb}", json.dumps(arguments).encode(), timeout=30)
        seen.text(f"the reply to {verb}", f"{reply.headers} {reply.data.decode()}")


async def by_commands(daemon: Daemon, who: Person, seen: Seen) -> None:
    named = ("--user-id", who.user_id, "--group-id", who.group_id)
    for command in (
        ("run", "telling", *named),
        ("run", "failing", *named),
        ("run", "nowhere", *named),
        ("run", "telling", *named, "--idempotency-key", who.user_id, "--json"),
        ("dispatch", "blab.please", "{}", *named),
        ("schedule", "telling", "0 9 * * *", *named),
        ("unschedule", "telling", *named),
        ("pointer-add", "bookmarks", who.user_id, "r4", "--group-id", who.group_id),
        ("pointer-list", "bookmarks", *named),
        ("disable", "telling", *named),
        ("run", "telling", *named),
        ("enable", "telling", *named),
        ("audit", "blabbing"),
        ("doctor",),
    ):
        _, out, err = await daemon.command(*command)
        seen.text(" ".join(command[:2]), out + err)


async def in_the_file(daemon: Daemon, who: Person) -> None:
    """As an operator writes it; what is left in the file names nobody."""
    path = daemon.data_dir / "schedules.yml"
    at = "2999-01-01T00:00"
    path.write_text(json.dumps({"telling": {"at": at, **who._asdict()}}) + "\n")
    async with asyncio.timeout(30):
        while "user_hash" not in path.read_text():
            await asyncio.sleep(0.1)


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────


async def everything_is_done(daemon: Daemon) -> None:
    """No run is under way, nothing waits for the bus, and nothing new comes."""
    last = -1
    async with asyncio.timeout(60):
        while True:
            status = await daemon.get("/status")
            busy = status["n_running"] or status["n_queued"] or status["bus"]["outbox_pending"]
            if not busy and status["position"] == last:
                return
            last = status["position"]
            await asyncio.sleep(0.3)


async def erased(daemon: Daemon, client: Any) -> None:
    """The broker has erased what it had to: that follows the commit."""
    async with asyncio.timeout(30):
        while True:
            seen = Seen()
            await seen.bus(client, from_others_only=True)
            if not seen.found:
                return
            await asyncio.sleep(0.3)


# ── searching ────────────────────────────────────────────────────────────────────────────────────────────────


class Seen:
    """What came out of the daemon."""

    def __init__(self) -> None:
        self.n_texts = 0
        self._texts: defaultdict[str, list[str]] = defaultdict(list)

    @property
    def found(self) -> list[Found]:
        return [trace for where, texts in self._texts.items() for trace in in_bytes("\n".join(texts), where)]

    def text(self, where: str, text: str) -> None:
        self.n_texts += 1
        self._texts[where].append(text)

    async def bus(self, client: Any, *, from_others_only: bool = False) -> None:
        """Every message that the broker still has."""
        stream = client.jetstream()
        for name in ("UME", "UME_RUNS"):
            state = (await stream.stream_info(name)).state
            if state.messages == 0:
                continue
            reader = await stream.subscribe("", stream=name, ordered_consumer=True)
            for _ in range(state.messages):
                message = await reader.next_msg(timeout=10)
                if from_others_only and "Cascadence-Origin" in (message.headers or {}):
                    continue
                body = message.data.decode(errors="surrogateescape")
                self.text(f"the stream {name}", f"{message.subject} {message.headers} {body}")
            await reader.unsubscribe()

    async def http(self, daemon: Daemon) -> None:
        """Every route, as JSON and as a page, of every run and task."""
        async with aiohttp.ClientSession(daemon.found["http_url"]) as session:

            async def get(path: str, shown_as: str | None = None) -> Any:
                for accept in ("application/json", "text/html", "application/openmetrics-text"):
                    async with session.get(path, headers={"Accept": accept}) as response:
                        text = f"{response.headers} {await response.text()}"
                    self.text(shown_as or path.partition("?")[0], text)
                    if accept == "application/json" and response.content_type == "application/json":
                        found = await response.json()
                return found

            document = await get("/openapi.json")
            runs = (await get("/runs?limit=1000"))["items"]
            tasks = (await get("/status"))["tasks"]
            for path in document["paths"]:
                if path == "/events":
                    continue
                wanted = runs[::8] if "{run}" in path else tasks if "{task}" in path else [None]
                for one in wanted:
                    filled = path if one is None else path.format(run=one.get("run_id"), task=one.get("name"))
                    await self._page_by_page(session, filled, path.replace("{", ":").replace("}", ""))

    async def _page_by_page(self, session: aiohttp.ClientSession, path: str, shown_as: str) -> None:
        for accept in ("application/json", "text/html"):
            after = ""
            while True:
                async with session.get(path + after, headers={"Accept": accept}) as response:
                    text = await response.text()
                self.text(shown_as, f"{response.headers} {text}")
                cursor = json.loads(text).get("next") if response.content_type == "application/json" else None
                if cursor is None or path.count("/") == 2:
                    break
                after = f"?after={cursor}"

    async def events(self, daemon: Daemon) -> None:
        """The whole log over SSE."""
        last = (await daemon.get("/status"))["position"]
        async for event in daemon.follow_events():
            self.text("/events", json.dumps(event))
            if event["position"] >= last:
                return


def in_files(daemon: Daemon) -> list[Found]:
    """What is found in the bytes of the folder of a daemon that is up. SQLite must not open these files from here."""
    files = [path for path in daemon.data_dir.rglob("*") if path.is_file()]
    assert any(path.name == "log.db-wal" for path in files)
    return [trace for path in files for trace in in_bytes(path.read_bytes(), str(path))]


def nothing_is_found(*found: list[Found]) -> None:
    traces = [trace for some in found for trace in some]
    assert not traces, f"{len(traces)} traces:\n" + "\n".join(map(str, traces[:20]))


def everybody_is_in_the_vault(daemon: Daemon) -> bool:
    """Else the search would prove nothing: nobody would have been there."""
    vault = sqlite3.connect(daemon.data_dir / "vault.db")
    (n_people,) = vault.execute("SELECT count(*) FROM identity WHERE kind = 'user'").fetchone()
    vault.close()
    return int(n_people) >= len(PEOPLE) and os.access(daemon.data_dir / "vault.key", os.R_OK)
