"""The clients of a world: each wish is uttered, perhaps not answered, uttered again; and what was answered is noted.

A wish has a key, which is its `Nats-Msg-Id` or its idempotency key, and comes back as `args.n`, a pointer's `run_id` or
an event's payload. Operators switch a task off and on meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from cascadenced.bus.memory_stream import Stored
from tests.crash.attempts import Attempt, Attempts
from tests.crash.client import CLEAR_NO
from tests.sim.broker import Broker, NoAnswer
from tests.sim.durable import HEARING
from tests.sim.tasks import KINDS, LASTING

ANSWER_WITHIN_S = 4.0
USERS = 4


def _moments(chance: random.Random, until_s: float) -> Callable[[], float]:
    """When something is wished for: all the time, or a few times by many."""
    rushes = [chance.random() * until_s for _ in range(chance.choice([0, 1, 3]))]
    return lambda: chance.choice(rushes) + chance.random() / 10 if rushes else chance.random() * until_s


class Clients:
    """attempts: what was wished for, and what was answered.  until_s: when the last wish is uttered first.

    switched: by (verb, task), how often an operator was told that it made a difference.
    garbage: keys of messages that nobody can read and that were confirmed.
    early: answers that came before what they tell of was in the log.  about: by key of a wish, whose it is.
    """

    def __init__(
        self,
        broker: Broker,
        chance: random.Random,
        *,
        n_wishes: int,
        until_s: float,
        is_recorded: Callable[[str], bool],
        say: Callable[[str], None],
    ) -> None:
        self._broker, self._chance, self._say = broker, chance, say
        self._is_recorded = is_recorded
        self.attempts = Attempts()
        self.events = Attempts()
        self.switched: Counter[tuple[str, str]] = Counter()
        self.garbage: set[str] = set()
        self.early: list[str] = []
        self.about: dict[str, dict[str, str]] = {}
        self._confirmed: Counter[str] = Counter()
        self._patience = chance.choice([1, 2, 5])
        self._when = _moments(chance, until_s)
        self._wishes = [(n, self._when()) for n in range(n_wishes)]
        self._switches = [self._when() for _ in range(chance.choice([0, 0, 4, 8]))]
        broker.on_lost = self._lost

    async def run(self) -> None:
        """Return when everything was wished for, and answered or given up."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for n, at_s in self._wishes:
                group.create_task(self._wish(f"k{n}", at_s))
            for at_s in self._switches:
                group.create_task(self._switch(at_s))

    async def _wish(self, key: str, at_s: float) -> None:
        chance = self._chance
        await asyncio.sleep(at_s)
        user = chance.randrange(USERS)
        about = self.about[key] = {"user_id": f"user-{user}", "group_id": f"group-{user % 2}"}
        # Few have many seconds: then crashes in the midst of a stage are the rule.
        args = {"n": key, "seconds": round(chance.choice([0.0, 0.1, 1.0, 8.0]) * chance.random(), 3)}
        task = chance.choices(list(KINDS), list(KINDS.values()))[0]
        for each in range(chance.choice([0, 1, 3]) if task in HEARING else 0):
            later_s = chance.choice([0.0, 0.5, 20.0]) * chance.random()
            self._group.create_task(self._go(f"go-{key}-{each}", key, later_s))
        match chance.choices(["bus", "ask", "both", "pointer", "event", "unheard", "switched", "garbage"],
                             [8, 6, 3, 3, 2, 1, 2, 1])[0]:  # fmt: skip
            case "bus":
                await self._until_answered(lambda: self._publish_run(key, task, about, args, keyed=False))
            case "ask":
                await self._until_answered(lambda: self._ask_run(key, task, about, args))
            case "both":
                await self._until_answered(lambda: self._publish_run(key, task, about, args, keyed=True))
                await self._until_answered(lambda: self._ask_run(key, task, about, args))
            case "pointer":
                by_bus = chance.random() < 0.5
                await self._until_answered(lambda: self._point(key, about, by_bus=by_bus))
            case "event":
                by_bus = chance.random() < 0.5
                await self._until_answered(lambda: self._dispatch(key, "called", about, args, by_bus=by_bus))
            case "unheard":
                await self._until_answered(lambda: self._dispatch(key, "unheard", about, args, by_bus=True))
            case "switched":  # once only: a refused wish may be made again, and be another run then
                await self._ask_run(key, "switched", about, args, keyed=False)
            case "garbage":
                await self._until_answered(lambda: self._publish_garbage(key))

    async def _until_answered(self, utter: Callable[[], Awaitable[bool]]) -> None:
        """Utter it until somebody answers or patience ends, and now and then once more."""
        left = self._patience
        while left:
            if await utter() and self._chance.random() < 0.8:
                return
            left -= 1
            await asyncio.sleep(self._chance.choice([0.0, 0.2, 2.0, 130.0]) * self._chance.random())

    async def _go(self, key: str, of: str, later_s: float) -> None:
        """An event that a run waits for, by then or later; now and then somebody else's, or about something else."""
        await asyncio.sleep(later_s)
        chance = self._chance
        about = {"user_id": "user-9", "group_id": "group-9"} if chance.random() < 0.1 else self.about[of]
        await self._until_answered(lambda: self.tell(key, of if chance.random() < 0.9 else "another", about))

    async def tell(self, key: str, of: str, about: dict[str, str] | None = None) -> bool:
        """Dispatch `go` for the run of the key `of`. Whether anybody has answered."""
        about = about or self.about[of]
        payload = {"n": key, "of": of}
        attempt = self.events.uttered(key, "run")
        if self._chance.random() < 0.5:
            return await self._publish(attempt, "ume.event.go", {**about, "payload": payload})
        body = {"event": "go", **about, "payload": payload, "wait": False, "idempotency_key": key}
        status, _ = await self.ask("dispatch", body)
        attempt.n_acknowledged += status == 200
        attempt.n_refused += status in CLEAR_NO
        return status == 200

    # ── on the bus ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _publish_run(
        self, key: str, task: str, about: dict[str, str], args: dict[str, Any], *, keyed: bool
    ) -> bool:
        body = {**about, "args": args, **({"idempotency_key": key} if keyed else {})}
        return await self._publish(self.attempts.uttered(key, "run"), f"ume.run.request.{task}", body)

    async def _publish(self, attempt: Attempt, subject: str, body: dict[str, Any]) -> bool:
        try:
            await self._broker.publish(subject, json.dumps(body).encode(), {"Nats-Msg-Id": attempt.key})
        except NoAnswer:
            return False
        attempt.n_acknowledged += 1
        self._confirmed[attempt.key] += 1
        self._say(f"client: {attempt.key} published on {subject}")
        return True

    async def _publish_garbage(self, key: str) -> bool:
        try:
            await self._broker.publish("ume.run.request.quick", f'{{"n": "{key}"'.encode(), {"Nats-Msg-Id": key})
        except NoAnswer:
            return False
        self.garbage.add(key)
        return True

    def _lost(self, stored: Stored) -> None:
        """The broker has lost what it had confirmed; nobody owes it any more."""
        key = stored.headers.get("Nats-Msg-Id", "")
        self.garbage.discard(key)
        for attempts in (self.attempts, self.events):
            if key in attempts.by_key:
                attempts.by_key[key].n_acknowledged -= self._confirmed.pop(key, 0)

    # ── asking the daemon ────────────────────────────────────────────────────────────────────────────────────────

    async def _ask_run(
        self, key: str, task: str, about: dict[str, str], args: dict[str, Any], *, keyed: bool = True
    ) -> bool:
        wait = self._chance.random() < 0.4
        body = {"task": task, **about, "args": args, "wait": wait, "idempotency_key": key if keyed else None}
        attempt = self.attempts.uttered(key, "run")
        return await self._asked(attempt, "run", body, lasting=task in LASTING)

    async def _dispatch(
        self, key: str, name: str, about: dict[str, str], args: dict[str, Any], *, by_bus: bool
    ) -> bool:
        heard = name == "called"
        attempt = self.attempts.uttered(key, "run") if heard else self.events.uttered(key, "run")
        if by_bus:
            return await self._publish(attempt, f"ume.event.{name}", {**about, "payload": args})
        wait = self._chance.random() < 0.4
        body = {"event": name, **about, "payload": args, "wait": wait, "idempotency_key": key}
        return await self._asked(attempt, "dispatch", body, lasting=True)

    async def _asked(self, attempt: Attempt, verb: str, body: dict[str, Any], *, lasting: bool) -> bool:
        status, answer = await self.ask(verb, body)
        if answer.get("run_id"):  # it has ended well, or was accepted, or is a run that failed: it is recorded
            attempt.n_acknowledged += 1
            attempt.run_ids.add(answer["run_id"])
            self._told_of(answer["run_id"])
            if body["wait"] and status == 200 and lasting:
                attempt.results.append(answer["result"])
            return True
        if status in CLEAR_NO:
            attempt.n_refused += 1
        return status in CLEAR_NO and status != 429

    async def _point(self, key: str, about: dict[str, str], *, by_bus: bool) -> bool:
        attempt = self.attempts.uttered(key, "pointer")
        body = {"run_id": key, **about}
        if by_bus:
            return await self._publish(attempt, "ume.pointer.marks", body)
        status, _ = await self.ask("pointer_add", {"task": "marks", **body})
        if status == 200:
            attempt.n_acknowledged += 1
            self._told_of(key)
        return status == 200

    async def _switch(self, at_s: float) -> None:
        """Off, and after a while on again."""
        await asyncio.sleep(at_s)
        off, on = self._chance.choice([("disable", "enable"), ("pause", "resume")])
        for verb in (off, on):
            await self._flip(verb)
            await asyncio.sleep(self._chance.random() * 3)

    async def _flip(self, verb: str) -> None:
        status, answer = await self.ask(verb, {"task": "switched"})
        if status == 200 and answer["changed"]:
            self.switched[verb, "switched"] += 1

    async def ask(self, verb: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status as in HTTP, answer); (0, {}) if there was none."""
        try:
            reply, headers = await self._broker.ask(verb, json.dumps(body).encode(), ANSWER_WITHIN_S)
        except NoAnswer:
            return 0, {}
        status = int(headers.get("Nats-Service-Error-Code", 200))
        answer: dict[str, Any] = json.loads(reply or b"{}")
        self._say(f"client: {verb} {body.get('idempotency_key') or ''} answered with {status} {answer}")
        return status, answer

    def _told_of(self, name: str) -> None:
        """A run id, or a pointer's."""
        if not self._is_recorded(name):
            self.early.append(name)
