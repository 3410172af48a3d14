"""Controlling runs and tasks: who may, and what happens when the same is asked twice."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from cascadenced.errors import Conflict, Invalid, Unknown
from cascadenced.events.run import RunCancelled, RunFinished, RunPaused, RunResolved, RunResumed
from cascadenced.events.signal import ContextAttached
from cascadenced.events.task import TaskPaused
from cascadenced.instance import Instance
from cascadenced.plugins.base import BaseTask
from cascadenced.verbs import VERBS, perform
from tests.doubles import ALICE, BOB, PSEUDONYMS, World, ask, idle, until

ALICE_SAYS = {"user_id": "alice", "group_id": "eng"}
COLLEAGUE = {"user_id": "carol", "group_id": "eng"}
STRANGER = {"user_id": "bob", "group_id": "ops"}


class Waits(BaseTask):
    """Until it is told to go."""

    name = "waits"

    async def run(self) -> Any:
        return await self.wait_for("go")


class Quick:
    name = "quick"

    async def run(self) -> str:
        return "done"


class Bills:
    """Hangs the first time, in an effect that must not happen twice."""

    name = "bills"
    delivery = "at_most_once"
    n = 0

    async def run(self) -> str:
        Bills.n += 1
        if Bills.n == 1:
            await asyncio.get_running_loop().create_future()
        return "billed"

    async def verify(self, result: str) -> str:
        return f"{result}, checked"


@pytest.fixture
def world() -> World:
    Bills.n = 0
    return World(Waits, Quick, Bills)


async def do(instance: Instance, verb: str, *, via: str | None = "http", **arguments: Any) -> Any:
    result = await perform(VERBS[verb], instance, arguments, via=via)
    return msgspec.json.decode(msgspec.json.encode(result))


def switched(task: str, *, changed: bool = True, run_id: str | None = None, duplicate: bool = False) -> dict[str, Any]:
    return {"task": task, "changed": changed, "run_id": run_id, "duplicate": duplicate}


async def waiting(instance: Instance, task: str = "waits") -> str:
    run_id = (await ask(instance, task, ALICE)).run_id
    await idle()
    return run_id


async def in_doubt(world: World) -> str:
    instance = await world.start()
    run_id = await waiting(instance, "bills")
    world.crash(instance)
    return run_id


CONTROLS = [
    ("pause_run", {}),
    ("resume_run", {}),
    ("cancel", {}),
    ("signal", {"value": {"note": "hello"}}),
    ("resolve", {"resolution": "retry"}),
]


# ── who may ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("who", [ALICE_SAYS, COLLEAGUE, {"user_id": "alice", "group_id": "ops"}])
async def test_the_runs_user_and_its_group_control_it(world: World, who: dict[str, str]) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        paused = await do(instance, "pause_run", run=run_id, **who)
        assert paused == {"run_id": run_id, "task": "waits", "status": "paused", "duplicate": False}
        assert (await do(instance, "resume_run", run=run_id, **who))["status"] == "waiting"
        assert (await do(instance, "cancel", run=run_id, **who))["status"] == "cancelled"
    [cancelled] = world.events(RunCancelled)
    assert (cancelled.by, cancelled.via) == (PSEUDONYMS.user(who["user_id"]), "http")


@pytest.mark.parametrize(("verb", "more"), CONTROLS)
@pytest.mark.parametrize("n_chars", [12, 32])
async def test_for_strangers_a_run_is_not_there(world: World, verb: str, more: dict[str, Any], n_chars: int) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        before = len(world.file.events)
        with pytest.raises(Unknown) as there:
            await do(instance, verb, run=run_id[:n_chars], **STRANGER, **more)
        other = "f" * n_chars
        with pytest.raises(Unknown) as not_there:
            await do(instance, verb, run=other, **STRANGER, **more)
        assert str(there.value).replace(run_id[:n_chars], other) == str(not_there.value)
        assert there.value.code == not_there.value.code
        assert len(world.file.events) == before


async def test_that_several_runs_begin_alike_is_told_to_none_but_who_may_control_them(world: World) -> None:
    async with world.up() as instance:
        first, second = await waiting(instance), await waiting(instance)
        alike = first[:8]
        assert second.startswith(alike)
        with pytest.raises(Invalid, match="several runs begin with"):
            await do(instance, "cancel", run=alike, **ALICE_SAYS)
        with pytest.raises(Unknown):
            await do(instance, "cancel", run=alike, **STRANGER)
        theirs = (await ask(instance, "waits", BOB)).run_id
        assert (await do(instance, "cancel", run=theirs[:8], **STRANGER))["run_id"] == theirs


@pytest.mark.parametrize("who", [{}, STRANGER])
async def test_the_owner_of_the_folder_controls_every_run_and_need_not_say_a_name(
    world: World, who: dict[str, str]
) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        assert (await do(instance, "cancel", via=None, run=run_id, **who))["status"] == "cancelled"


@pytest.mark.parametrize("via", ["http", "bus"])
@pytest.mark.parametrize(
    ("who", "said"), [({}, "user_id"), ({"group_id": "eng"}, "user_id"), ({"user_id": "alice"}, "group_id")]
)
async def test_others_must_say_who_they_are(world: World, via: str, who: dict[str, str], said: str) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        with pytest.raises(Invalid, match=f"^{said} is required$"):
            await do(instance, "cancel", via=via, run=run_id, **who)


async def test_nobody_becomes_the_owner_by_saying_so(world: World) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        with pytest.raises(Unknown):
            await perform(VERBS["cancel"], instance, {"run": run_id, **STRANGER, "via": "cli"}, via="bus")


async def test_a_whole_id_is_found_while_the_table_of_runs_is_frozen(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)

        async def fetch(*_: Any) -> Any:
            raise AssertionError("a table was read")

        monkeypatch.setattr(instance.log.tables, "fetch", fetch)
        assert (await do(instance, "cancel", run=run_id, **ALICE_SAYS))["status"] == "cancelled"


async def test_what_was_done_to_a_run_is_in_the_trail_of_its_task(world: World) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        await do(instance, "pause_run", run=run_id, **ALICE_SAYS)
        await do(instance, "signal", run=run_id, value={"note": "hello"}, **ALICE_SAYS)
        await do(instance, "resume_run", run=run_id, **ALICE_SAYS)
        await do(instance, "cancel", run=run_id, reason="enough", **COLLEAGUE)
        stages = (await do(instance, "trail", task="waits", category="stage"))["items"]
        audits = (await do(instance, "trail", task="waits", category="audit"))["items"]
    assert [row["stage"] for row in stages][-3:] == ["paused", "context_attached", "resumed"]
    assert [(row["stage"], row["status"]) for row in audits][-2:] == [
        ("context_attached", "received"),
        ("execute", "cancelled"),
    ]
    assert [row["user_hash"] for row in audits][-2:] == [PSEUDONYMS.user("alice"), PSEUDONYMS.user("carol")]


# ── the same again ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cancel_repeated_under_its_key_says_so_and_without_one_is_too_late(world: World) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        asked = {**ALICE_SAYS, "run": run_id, "reason": "enough", "idempotency_key": "k"}
        first, again = await do(instance, "cancel", **asked), await do(instance, "cancel", **asked)
        assert again == {**first, "duplicate": True}
        with pytest.raises(Conflict, match="has ended"):
            await do(instance, "cancel", run=run_id, **ALICE_SAYS)
    assert len(world.events(RunCancelled)) == 1


async def test_a_pause_repeated_under_its_key_does_not_pause_what_was_resumed_since(world: World) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        asked = {**ALICE_SAYS, "run": run_id, "idempotency_key": "k"}
        await do(instance, "pause_run", **asked)
        await do(instance, "resume_run", run=run_id, **ALICE_SAYS)
        again = await do(instance, "pause_run", **asked)
        assert (again["status"], again["duplicate"]) == ("waiting", True)
    assert len(world.events(RunPaused)) == 1


async def test_a_signal_repeated_under_its_key_is_told_once_and_answered_as_the_first_time(world: World) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        asked = {**ALICE_SAYS, "run": run_id, "value": {"note": "hello"}, "idempotency_key": "k"}
        first = await do(instance, "signal", **asked)
        assert first == {"run_id": run_id, "delivered": True, "duplicate": False}
        await do(instance, "dispatch", **ALICE_SAYS, event="go")
        await until(lambda: world.events(RunFinished))
        assert await do(instance, "signal", **asked) == {**first, "duplicate": True}
    assert len(world.events(ContextAttached)) == 1


async def test_the_same_wish_twice_at_once_is_granted_once(world: World) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        asked = {**ALICE_SAYS, "run": run_id, "idempotency_key": "k"}
        answers = await asyncio.gather(*(do(instance, "cancel", **asked) for _ in range(5)))
        assert {answer["status"] for answer in answers} == {"cancelled"}
        assert sorted(answer["duplicate"] for answer in answers) == [False, True, True, True, True]
    assert len(world.events(RunCancelled)) == 1


async def test_a_key_is_known_after_a_restart(world: World) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        asked = {**ALICE_SAYS, "run": run_id, "idempotency_key": "k"}
        await do(instance, "cancel", **asked)
    async with world.up() as instance:
        assert (await do(instance, "cancel", **asked))["duplicate"]


@pytest.mark.parametrize(
    ("verb", "other"),
    [
        ("cancel", {"reason": "another reason"}),
        ("cancel", {"reason": "enough", "run": None}),
        ("pause_run", {}),
        ("signal", {"value": {"note": "hello"}}),
        ("disable", {"task": "waits", "run": ...}),
    ],
)
async def test_a_key_used_for_something_else_is_a_conflict(world: World, verb: str, other: dict[str, Any]) -> None:
    async with world.up() as instance:
        run_id, second = await waiting(instance), await waiting(instance)
        await do(instance, "cancel", run=run_id, reason="enough", idempotency_key="k", **ALICE_SAYS)
        asked = {"run": run_id, "idempotency_key": "k", **ALICE_SAYS, **other}
        asked = {name: second if value is None else value for name, value in asked.items() if value is not ...}
        with pytest.raises(Conflict) as caught:
            await do(instance, verb, **asked)
        assert caught.value.code == "idempotency.conflict"


async def test_the_same_key_of_another_user_is_another_key(world: World) -> None:
    async with world.up() as instance:
        run_id, second = await waiting(instance), await waiting(instance)
        await do(instance, "cancel", run=run_id, idempotency_key="k", **ALICE_SAYS)
        assert not (await do(instance, "cancel", run=second, idempotency_key="k", **COLLEAGUE))["duplicate"]


async def test_a_key_of_a_refused_control_is_free(world: World) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        with pytest.raises(Conflict, match="not paused"):
            await do(instance, "resume_run", run=run_id, idempotency_key="k", **ALICE_SAYS)
        assert not (await do(instance, "cancel", run=run_id, idempotency_key="k", **ALICE_SAYS))["duplicate"]


async def test_a_key_that_names_its_user_is_kept_by_pseudonym(world: World) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        await do(instance, "cancel", run=run_id, reason="alice said so", idempotency_key="alice-1", **ALICE_SAYS)
    assert "alice" not in world.text()


@pytest.mark.parametrize("key", ["", "k" * 257])
async def test_a_key_that_cannot_be_one_is_invalid(world: World, key: str) -> None:
    async with world.up() as instance:
        run_id = await waiting(instance)
        with pytest.raises(Invalid):
            await do(instance, "cancel", run=run_id, idempotency_key=key, **ALICE_SAYS)
    assert world.events(RunCancelled) == []


async def test_a_switch_repeated_under_its_key_does_not_move_what_was_moved_back(world: World) -> None:
    async with world.up() as instance:
        asked = {**ALICE_SAYS, "task": "quick", "idempotency_key": "k"}
        assert await do(instance, "disable", **asked) == switched("quick")
        await do(instance, "enable", task="quick", **ALICE_SAYS)
        assert await do(instance, "disable", **asked) == switched("quick", changed=False, duplicate=True)
        assert (await do(instance, "run", task="quick", **ALICE_SAYS))["status"] == "success"


# ── by the task's name ───────────────────────────────────────────────────────────────────────────────────────────


async def test_pause_means_the_newest_run_under_way_and_resume_the_newest_that_is_paused(world: World) -> None:
    """TC 108"""
    async with world.up() as instance:
        older, newer = await waiting(instance), await waiting(instance)
        older, newer = sorted((older, newer))
        assert (await do(instance, "pause", task="waits", **ALICE_SAYS))["run_id"] == newer
        await waiting(instance)
        assert (await do(instance, "resume", task="waits", **ALICE_SAYS))["run_id"] == newer
    assert world.events(TaskPaused) == []
    assert len(world.events(RunPaused)) == len(world.events(RunResumed)) == 1


async def test_pause_passes_over_runs_that_are_paused_already_and_without_others_means_the_task(world: World) -> None:
    async with world.up() as instance:
        older, newer = sorted([await waiting(instance), await waiting(instance)])
        for meant in (newer, older, None):
            assert await do(instance, "pause", task="waits", **ALICE_SAYS) == switched("waits", run_id=meant)
        assert await do(instance, "pause", task="waits", **ALICE_SAYS) == switched("waits", changed=False)
        with pytest.raises(Conflict, match="is paused"):
            await do(instance, "run", task="waits", **ALICE_SAYS)


async def test_resume_takes_back_one_by_one_what_was_paused_and_the_task_last(world: World) -> None:
    async with world.up() as instance:
        older, newer = sorted([await waiting(instance), await waiting(instance)])
        for _ in range(3):
            await do(instance, "pause", task="waits", **ALICE_SAYS)
        for meant in (newer, older, None):
            assert await do(instance, "resume", task="waits", **ALICE_SAYS) == switched("waits", run_id=meant)
        assert await do(instance, "resume", task="waits", **ALICE_SAYS) == switched("waits", changed=False)


async def test_two_who_pause_by_name_at_once_pause_two_runs(world: World) -> None:
    async with world.up() as instance:
        run_ids = {await waiting(instance), await waiting(instance)}
        both = await asyncio.gather(*(do(instance, "pause", task="waits", **ALICE_SAYS) for _ in range(2)))
        assert {each["run_id"] for each in both} == run_ids
        assert all(each["changed"] for each in both)


@pytest.mark.parametrize("n_turns", range(12))
async def test_the_same_pause_by_name_twice_at_once_is_granted_once(world: World, n_turns: int) -> None:
    async with world.up() as instance:
        _, newer = sorted([await waiting(instance), await waiting(instance)])
        asked = {**ALICE_SAYS, "task": "waits", "idempotency_key": "k"}
        first = asyncio.ensure_future(do(instance, "pause", **asked))
        await idle(n_turns)
        again = await do(instance, "pause", **asked)
        assert (await first)["run_id"] == again["run_id"] == newer
    assert len(world.events(RunPaused)) == 1


async def test_where_no_run_is_under_way_the_task_itself_is_meant(world: World) -> None:
    async with world.up() as instance:
        assert await do(instance, "pause", task="waits", **ALICE_SAYS) == switched("waits")
        with pytest.raises(Conflict, match="is paused"):
            await do(instance, "run", task="waits", **ALICE_SAYS)
        assert await do(instance, "resume", task="waits", **ALICE_SAYS) == switched("waits")
        with pytest.raises(Unknown, match="Unknown task: nothing"):
            await do(instance, "pause", task="nothing", **ALICE_SAYS)


async def test_runs_of_others_are_not_meant(world: World) -> None:
    async with world.up() as instance:
        await waiting(instance)
        assert await do(instance, "pause", task="waits", **STRANGER) == switched("waits")
    assert world.events(RunPaused) == []


async def test_a_job_id_names_the_run(world: World) -> None:
    async with world.up() as instance:
        older, _ = sorted([await waiting(instance), await waiting(instance)])
        paused = await do(instance, "pause", task="waits", job_id=older, **ALICE_SAYS)
        assert paused == switched("waits", run_id=older)
        assert (await do(instance, "resume", task="waits", job_id=older, **ALICE_SAYS))["run_id"] == older


async def test_a_job_that_is_not_under_way_is_not_running_whatever_the_reason(world: World) -> None:
    async with world.up() as instance:
        ended = await waiting(instance, "quick")
        running = await waiting(instance)
        for task, job_id, who in [
            ("quick", ended, ALICE_SAYS),
            ("quick", running, ALICE_SAYS),
            ("waits", running, STRANGER),
            ("waits", "f" * 32, ALICE_SAYS),
            ("waits", "short", ALICE_SAYS),
            ("waits", "waits", ALICE_SAYS),
        ]:
            for verb in ("pause", "resume"):
                with pytest.raises(Unknown, match="^pipeline not running$"):
                    await do(instance, verb, task=task, job_id=job_id, **who)
    assert world.events(RunPaused) == []


async def test_the_owner_says_a_name_when_a_run_is_under_way(world: World) -> None:
    async with world.up() as instance:
        await waiting(instance)
        with pytest.raises(Invalid, match="^user_id is required$"):
            await do(instance, "pause", via=None, task="waits", group_id="eng")
        assert (await do(instance, "pause", via=None, task="quick", group_id="eng"))["changed"]


async def test_a_pause_by_name_repeated_under_its_key_is_about_the_run_it_was_about(world: World) -> None:
    async with world.up() as instance:
        asked = {**ALICE_SAYS, "task": "waits", "idempotency_key": "k"}
        first = await waiting(instance)
        assert (await do(instance, "pause", **asked))["run_id"] == first
        await do(instance, "cancel", run=first, **ALICE_SAYS)
        await waiting(instance)
        again = await do(instance, "pause", **asked)
        assert again == switched("waits", changed=False, run_id=first, duplicate=True)


async def test_a_pause_by_name_of_the_task_repeated_under_its_key_pauses_no_run(world: World) -> None:
    async with world.up() as instance:
        asked = {**ALICE_SAYS, "task": "waits", "idempotency_key": "k"}
        assert await do(instance, "pause", **asked) == switched("waits")
        await do(instance, "resume", task="waits", **ALICE_SAYS)
        await waiting(instance)
        assert await do(instance, "pause", **asked) == switched("waits", changed=False, duplicate=True)
    assert world.events(RunPaused) == []


# ── doubt ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("resolution", "output", "result", "n_billed"),
    [("retry", None, "billed, checked", 2), ("done", "paid by hand", "paid by hand, checked", 1)],
)
async def test_a_run_in_doubt_goes_on_as_it_is_told(
    world: World, resolution: str, output: Any, result: str, n_billed: int
) -> None:
    run_id = await in_doubt(world)
    async with world.up() as instance:
        await idle()
        assert (await instance.answers.run(run_id)).status == "in_doubt"
        await do(instance, "resolve", run=run_id, resolution=resolution, output=output, **ALICE_SAYS)
        run = (await instance.runs.ended(run_id)).run
    assert (run.status, run.result, Bills.n) == ("success", result, n_billed)
    assert [event.verdict for event in world.events(RunResolved)] == [resolution]


@pytest.mark.parametrize("resolution", ["retry", "done"])
async def test_what_was_said_of_a_doubt_survives_a_crash_before_the_run_goes_on(world: World, resolution: str) -> None:
    run_id = await in_doubt(world)
    async with world.up() as instance:
        await idle()
    instance = await world.start(recover=False)
    await do(instance, "resolve", run=run_id, resolution=resolution, **ALICE_SAYS)
    world.crash(instance)
    async with world.up() as instance:
        assert (await instance.runs.ended(run_id)).run.status == "success"


async def test_a_run_in_doubt_ends_when_it_is_said_to_have_failed(world: World) -> None:
    run_id = await in_doubt(world)
    async with world.up() as instance:
        await idle()
        asked = {**ALICE_SAYS, "run": run_id, "resolution": "fail", "idempotency_key": "k"}
        assert (await do(instance, "resolve", **asked))["status"] == "error"
        assert (await do(instance, "resolve", **asked))["duplicate"]
        with pytest.raises(Conflict, match="not in doubt"):
            await do(instance, "resolve", run=run_id, resolution="retry", **ALICE_SAYS)
