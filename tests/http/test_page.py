"""The pages for people."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient

from cascadenced.eventlog.base import Change
from cascadenced.events.run import ForeignRunReported
from cascadenced.http.cells import duration
from cascadenced.http.html import Html, tag
from cascadenced.http.page import run_page
from cascadenced.projections.run_view import ChildView, StepView, WaitView
from tests.examples import example
from tests.http.conftest import World

Client = TestClient[Any, Any]
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


async def _html(client: Client, path: str) -> str:
    async with client.get(path, headers=BROWSER) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        text: str = await response.text()
        return text


async def test_the_overview_shows_tasks_and_runs(world: World, public: Client):
    run_id = await world.run()
    await world.do("disable", task="countdown")
    await world.do("pause", task="bookmarks")
    page = await _html(public, "/")
    assert "<title>Cascadence</title>" in page
    assert f'href="/runs/{run_id}"' in page
    for word in ("example", "disabled", "paused", "enabled", "success", "instance-1"):
        assert word in page


async def test_the_overview_shows_when_schedules_fire_next(world: World, public: Client):
    await world.do("schedule", task="example", expr="0 9 * * *", timezone="Europe/Berlin")
    await world.do("schedule", task="failing", every_s=90)
    await world.do("schedule_pause", task="failing")
    async with public.get("/") as response:
        text = await response.text()
    assert "<code>0 9 * * *</code>" in text
    assert "Europe/Berlin" in text
    assert "T09:00:00+0" in text
    assert "every 1 min 30 s" in text or "every 90" in text
    assert 'href="/schedules/example/ticks"' in text


async def test_an_overview_without_runs_says_how_to_make_one(public: Client):
    assert "task run example" in await _html(public, "/")


async def test_what_is_wrong_is_on_the_overview(world: World, public: Client):
    world.bus.connected = False
    world.runs.broken = True
    await world.run()
    page = await _html(public, "/")
    assert "degraded" in page
    assert "disconnected" in page
    assert "The projection runs has stopped: ValueError: broken by a test" in page
    assert "This list stopped at" in page


async def test_a_browser_gets_a_run_as_a_page_and_a_program_as_json(world: World, public: Client):
    run_id = await world.run("failing")
    page = await _html(public, f"/runs/{run_id}")
    assert "&lt;b&gt;no&lt;/b&gt; travel for" in page
    assert "<b>no" not in page
    for word in ("ValueError", "intake", "verify", "skipped", f"/runs/{run_id}/events"):
        assert word in page
    for accept in ("*/*", "application/json", None):
        async with public.get(f"/runs/{run_id}", headers={"Accept": accept} if accept else {}) as response:
            assert response.content_type == "application/json"
            assert response.headers["Vary"] == "Accept"


async def test_a_browser_gets_a_task_as_a_page_and_a_program_as_json(world: World, public: Client):
    run_id = await world.run("failing")
    await world.do("schedule", task="failing", expr="0 9 * * *", timezone="Europe/Berlin")
    await world.do("disable", task="failing")
    page = await _html(public, "/status/failing")
    for word in ("<title>failing · Cascadence</title>", "disabled", "error", f'href="/runs/{run_id}"'):
        assert word in page
    assert 'href="/schedules/failing/ticks"' in page
    for accept in ("*/*", "application/json", None):
        async with public.get("/status/failing", headers={"Accept": accept} if accept else {}) as response:
            assert response.content_type == "application/json"
            assert response.headers["Vary"] == "Accept"


async def test_the_page_of_a_task_that_never_ran_says_so(public: Client):
    page = await _html(public, "/status/countdown")
    assert "No run yet." in page
    assert "ticks" not in page


async def test_a_run_leads_to_its_task(world: World, public: Client):
    run_id = await world.run()
    assert 'href="/status/example"' in await _html(public, f"/runs/{run_id}")


@pytest.mark.parametrize(
    ("path", "says"), [("/runs/nope", "no run &#x27;nope&#x27;"), ("/status/%3Cb%3E", "Unknown task: &lt;b&gt;")]
)
async def test_what_is_not_there_is_a_page_with_a_way_back(public: Client, path: str, says: str):
    async with public.get(path, headers=BROWSER) as response:
        assert (response.status, response.content_type) == (404, "text/html")
        text = await response.text()
    assert says in text
    assert '<a href="/">' in text
    async with public.get(path) as response:
        assert (response.status, response.content_type) == (404, "application/json")


async def test_names_from_elsewhere_are_text_and_links_are_quoted(world: World, public: Client):
    report = example(
        ForeignRunReported, task="their.task", foreign_run_id='"><script>x</script>/../', status="<i>odd</i>"
    )
    await world.instance.log.append([Change("task-their.task", [report])])
    page = await _html(public, "/")
    assert "<script>x" not in page
    assert "<i>odd" not in page
    assert 'href="/runs/%22%3E%3Cscript%3Ex%3C%2Fscript%3E%2F..%2F"' in page


async def test_nothing_on_a_page_is_inline_or_from_elsewhere(world: World, public: Client):
    run_id = await world.run("failing")
    for path in ("/", f"/runs/{run_id}", "/status/failing"):
        page = await _html(public, path)
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", page)
        assert all(link.startswith("/") for link in re.findall(r'(?:href|src)="([^"]*)"', page))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")],
)
async def test_parts_of_the_pages_have_their_types(public: Client, name: str, kind: str):
    async with public.get(f"/static/{name}") as response:
        assert response.status == 200
        assert response.content_type == kind
        assert await response.read()


async def test_a_page_of_what_goes_on_follows_the_log_and_one_of_the_past_does_not(world: World, public: Client):
    overview = await _html(public, "/")
    assert f'data-after="{world.instance.log.position}"' in overview
    assert "data-types=" in await _html(public, f"/runs/{await world.run('endless', wait=False)}")
    assert "data-types=" not in await _html(public, f"/runs/{await world.run()}")


async def test_a_long_value_is_cut_on_the_page(world: World):
    run = await world.instance.answers.run(await world.run())
    page = run_page(msgspec.structs.replace(run, result="x" * 100_000))
    assert len(page) < 20_000
    assert "all of it is in the events" in page


def test_text_becomes_markup_only_by_being_escaped():
    made = tag("p", "a < b", Html("<br>"), [1, None, "&"], class_="x y", data_label='"quoted"', hidden=True, id=None)
    assert made == '<p class="x y" data-label="&quot;quoted&quot;" hidden>a &lt; b<br>1&amp;</p>'
    assert tag("br") == "<br>"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0001, "< 1 ms"),
        (0.25, "250 ms"),
        (0.9996, "1.0 s"),
        (59.4, "59.4 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_for_people(seconds: float, text: str):
    assert duration(seconds) == text


async def test_a_run_that_waits_says_for_what_on_both_pages(world: World, public: Client):
    run_id = await world.run("patient", wait=False)
    await asyncio.sleep(0.01)
    for path in ("/", f"/runs/{run_id}"):
        assert "the event go" in await _html(public, path)
    page = await _html(public, f"/runs/{run_id}")
    assert "event go</li>" in page
    assert "Runs of its plan" not in page


async def test_steps_and_the_runs_of_a_plan_are_text(world: World):
    run = await world.instance.answers.run(await world.run())
    name = "<script>x</script>"
    stage = msgspec.structs.replace(
        run.stages[4], n_steps=201, steps=[StepView(201, "step", name, "success", 0.5, name)]
    )
    waits = WaitView("event", f"the event {name}", name, reason=name)
    child = ChildView(0, name, "f" * 32, "running", 1)
    page = run_page(msgspec.structs.replace(run, stages=[stage], waits_for=waits, children=[child]))
    assert "<script>x" not in page
    assert page.count("&lt;script&gt;x") == 5
    assert "200 before" in page
    assert f'href="/runs/{"f" * 32}"' in page


async def test_what_a_process_printed_is_shown_with_its_stage(world: World):
    run = await world.instance.answers.run(await world.run())
    assert "Printed by" not in run_page(run)
    stages = [
        msgspec.structs.replace(view, printed="<b>1 of 2\n" if view.stage == "run" else None) for view in run.stages
    ]
    page = run_page(msgspec.structs.replace(run, stages=stages))
    assert page.count("Printed by") == 1
    assert "<h2>Printed by run</h2><pre><code>&lt;b&gt;1 of 2\n</code></pre>" in page
