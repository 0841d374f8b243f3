"""Batches stage by stage: what may be in a file, what is held for it, and what is booked of what the provider tells."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from bursar.core.batches import Job, encode_job, read_job
from bursar.core.directory import BreakerMark, Delta, LimitDef, Policy
from bursar.core.errors import Refusal, UpstreamFault
from bursar.core.ledger import Settlement
from bursar.core.made_ids import MadeId
from bursar.gateway import batch_jobs
from bursar.gateway.batch_jobs import CLAIM_S, GONE_LOOKS, LIFE_S, take_up
from bursar.gateway.node import BatchRoom
from tests.gateway.answers import IN, MODEL, OUT, broken, ceiling_of, chat, error, plain, unsent
from tests.gateway.fakes import FakeExchange, FakeResponse
from tests.gateway.ground import PLENTY, Stand, budget, price_table, provider_key

MakeStand = Callable[..., Stand]
PATH = "/v1/batches"
KEY = provider_key("pk-b", "openai/*/api/prod/*", purposes=("batch",))
CHAT = "/v1/chat/completions"
LINE = chat(max_tokens=100)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_jobs, "FIRST_S", 0.0)
    monkeypatch.setattr(batch_jobs, "LONGEST_S", 0.0)


@pytest.fixture
def stand(make_stand: MakeStand) -> Stand:
    return make_stand(provider_keys=[KEY], budgets=[budget(PLENTY)])


def line(body: Any = None, **fields: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": CHAT, "body": LINE if body is None else body} | fields


def lined(*values: Any) -> bytes:
    return b"".join([(one if isinstance(one, bytes) else msgspec.json.encode(one)) + b"\n" for one in values])


def file_of(*lines: Any) -> FakeResponse:
    content = lined(*lines)
    return FakeResponse([content[:7], content[7:]], 200, {"content-type": "application/octet-stream"})


def batch(status: str = "in_progress", made_id: str = "batch_1", **fields: Any) -> dict[str, Any]:
    values = {"id": made_id, "object": "batch", "endpoint": CHAT, "input_file_id": "file-in", "status": status}
    return values | {"completion_window": "24h", "created_at": 1} | fields


def result(inputs: Any = 10, outputs: Any = 5, status: int = 200, **fields: Any) -> dict[str, Any]:
    body = {"choices": [], "usage": {"prompt_tokens": inputs, "completion_tokens": outputs}} | fields
    return {"id": "r", "custom_id": "a", "response": {"status_code": status, "body": body}, "error": None}


def not_run(code: str) -> dict[str, Any]:
    return {"id": "r", "custom_id": "a", "response": None, "error": {"code": code, "message": "no"}}


async def own_file(stand: Stand, made_id: str = "file-in", purpose: str = "batch") -> None:
    now = stand.clock.now()
    about = msgspec.json.encode({"id": made_id, "purpose": purpose}).decode()
    made = MadeId(
        team="team-1",
        kind="file",
        id=made_id,
        key="k",
        provider="openai",
        secret=KEY.id,
        made_at=now,
        expires_at=now + 10**15,
        about=about,
    )
    await stand.made_ids.keep([made])


async def create(stand: Stand, *answers: Any, **fields: Any) -> FakeExchange:
    """The file is the team's. What follows the creation is left in the upstream's answers."""
    await own_file(stand)
    stand.upstream.will(*answers)
    body = {"input_file_id": "file-in", "endpoint": CHAT, "completion_window": "24h"} | fields
    exchange = stand.exchange(PATH, body)
    await stand.pipeline.serve(exchange)
    return exchange


async def over(stand: Stand) -> None:
    """Until nothing is followed any more."""
    async with asyncio.timeout(30):
        await asyncio.gather(*stand.node.followed)


async def posted(stand: Stand, lines: int, told: Any, *files: FakeResponse) -> Settlement:
    exchange = await create(stand, file_of(*[line()] * lines), plain(batch()), plain(told), *files)
    assert exchange.status == 200, exchange.json
    await over(stand)
    stand.at_rest()
    return stand.post


async def jobs(stand: Stand) -> list[Job]:
    found = await stand.made_ids.listed("", "job", most=100)
    return [job for job in (read_job(one.about) for one in found) if job is not None]


# ---- what is held


async def test_all_lines_are_held_before_it_is_asked_for(stand: Stand) -> None:
    lines = [line(chat(max_tokens=n)) for n in (10, 20, 30)]
    ceilings = [ceiling_of(chat(max_tokens=n), n) for n in (10, 20, 30)]
    held: list[tuple[int, int]] = []
    stand.upstream.before = lambda: held.append(stand.balance())
    exchange = await create(stand, file_of(*lines), plain(batch()), plain(batch("failed")))
    assert (exchange.status, exchange.json) == (200, batch())
    assert held[:2] == [(0, 0), (0, sum(ceilings))]
    assert [one.route for one in stand.upstream.sent[:2]] == ["GET /files/file-in/content", "batches"]
    (job,) = await jobs(stand)
    assert (job.ceiling, job.dearest, job.lines) == (sum(ceilings), max(ceilings), 3)
    await over(stand)
    assert stand.post == Settlement(0, stand.post.usage, True, "ok")
    assert await jobs(stand) == []


async def test_what_the_budget_does_not_hold_is_never_asked_for(make_stand: MakeStand) -> None:
    most = 2 * ceiling_of(LINE, 100) - 1
    stand = make_stand(provider_keys=[KEY], budgets=[budget(most)])
    exchange = await create(stand, file_of(line(), line()))
    assert (exchange.status, exchange.word) == (402, "can_never_fit")
    assert [one.route for one in stand.upstream.sent] == ["GET /files/file-in/content"]
    stand.at_rest()


async def test_a_soft_budget_holds_what_is_expected(make_stand: MakeStand) -> None:
    stand = make_stand(provider_keys=[KEY], budgets=[budget(PLENTY, hard=False)])
    uncapped = line(chat())
    await create(stand, file_of(uncapped), plain(batch()), plain(batch("failed")))
    assert 0 < stand.balance()[1] < ceiling_of(chat(), 8_000)
    await over(stand)
    assert stand.balance() == (0, 0)


# ---- what is booked


async def test_the_cost_is_the_sum_over_the_lines(stand: Stand) -> None:
    told = batch("completed", output_file_id="file-out", request_counts={"total": 2, "completed": 2, "failed": 0})
    post = await posted(stand, 2, told, FakeResponse([lined(result(10, 5), result(7, 3))], 200, {}))
    assert (post.cost_pico, post.exact) == (17 * IN + 8 * OUT, True)
    assert post.usage is not None
    assert (post.usage.input_tokens, post.usage.output_tokens) == (17, 8)
    assert stand.balance() == (17 * IN + 8 * OUT, 0)
    made = await stand.made_ids.find("team-1", "file", "file-out")
    assert made is not None
    assert made.secret == KEY.id
    assert {key for key, _ in stand.releases.asked} == {KEY.id}


TOP = ceiling_of(LINE, 100)
GOOD = 10 * IN + 5 * OUT
LEAVES_OPEN = [
    ([result(), result(-1)], [], 2),
    ([result(), result(status=200, usage=None)], [], 2),
    ([result(), b"not json"], [], 2),
    ([result(), result("many")], [], 2),
    ([result()], [result(status=500)], 1),
    ([result()], [not_run("server_error")], 1),
    ([result()], [], 2),  # a line that has no result although all are said to have one
    ([result()], [], None),
]


@pytest.mark.parametrize(("good", "bad", "completed"), LEAVES_OPEN)
async def test_what_is_left_open_costs_the_dearest_line(
    stand: Stand, good: list[Any], bad: list[Any], completed: int | None
) -> None:
    counts = None if completed is None else {"total": 2, "completed": completed, "failed": 0}
    told = batch("completed", output_file_id="file-out", request_counts=counts)
    files = [FakeResponse([lined(*good)], 200, {})]
    if bad:
        told["error_file_id"] = "file-err"
        files.append(FakeResponse([lined(*bad)], 200, {}))
    post = await posted(stand, 2, told, *files)
    assert (post.cost_pico, post.exact, post.usage) == (GOOD + TOP, False, None)


async def test_what_is_inexact_never_passes_the_hold(stand: Stand) -> None:
    told = batch("completed", output_file_id="file-out")
    post = await posted(stand, 2, told, FakeResponse([lined(result(-1), result(-1), result(-1), result())], 200, {}))
    assert (post.cost_pico, post.exact) == (2 * TOP, False)


async def test_more_than_was_held_is_booked_in_full(stand: Stand) -> None:
    told = batch("completed", output_file_id="file-out")
    post = await posted(stand, 1, told, FakeResponse([lined(result(10**6, 10**6))], 200, {}))
    assert (post.cost_pico, post.exact) == (10**6 * (IN + OUT), True)
    assert await jobs(stand) == []


@pytest.mark.parametrize("status", ["expired", "cancelled"])
async def test_lines_that_were_not_run_are_free(stand: Stand, status: str) -> None:
    told = batch(status, output_file_id="file-out", error_file_id="file-err", request_counts={"completed": 1})
    errors = [not_run(f"batch_{status}"), result(status=400)]
    files = [FakeResponse([lined(result())], 200, {}), FakeResponse([lined(*errors)], 200, {})]
    post = await posted(stand, 3, told, *files)
    assert (post.cost_pico, post.exact) == (GOOD, True)


async def test_result_files_that_are_gone_leave_all_open(stand: Stand) -> None:
    told = batch("expired", output_file_id="file-out", request_counts={"completed": 2})
    post = await posted(stand, 3, told, error(404))
    assert (post.cost_pico, post.exact) == (2 * TOP, False)


async def test_a_batch_that_is_gone_costs_its_ceiling(stand: Stand) -> None:
    gone = [error(404) for _ in range(GONE_LOOKS)]
    told = batch("completed", output_file_id="file-out")
    back = [*gone[1:], plain(told), FakeResponse([lined(result())], 200, {})]
    await create(stand, file_of(line()), plain(batch()), *back)
    await over(stand)
    assert (stand.post.cost_pico, stand.post.exact) == (GOOD, True), "it was not gone"
    await create(stand, file_of(line()), plain(batch()), *gone)
    await over(stand)
    assert stand.ends[1] == Settlement(TOP, None, False, "upstream_broken")


async def test_a_batch_tier_of_the_price_table_bills(make_stand: MakeStand) -> None:
    table = price_table()
    stand = make_stand(provider_keys=[KEY], budgets=[budget(PLENTY)])
    price = table.find("openai", "gpt-4o-mini", stand.clock.now())
    assert price is not None
    (band,) = price.tiers["batch"]
    body = chat(model="gpt-4o-mini", max_tokens=100)
    told = batch("completed", output_file_id="file-out")
    files = FakeResponse([lined(result(10, 5))], 200, {})
    await create(stand, file_of(line(body)), plain(batch()), plain(told), files)
    await over(stand)
    assert stand.post.cost_pico == 10 * band.input + 5 * band.output
    assert band.input < price.bands[0].input


async def test_outages_and_strange_answers_are_waited_out(stand: Stand) -> None:
    told = batch("completed", output_file_id="file-out")
    answers = [
        UpstreamFault("timeout_head", sent=True),
        error(500),
        broken("reset"),
        plain({"object": "list"}),
        plain(batch(made_id="batch_2", status="failed")),
        plain(batch("failed", input_file_id="file-other")),
        plain(batch("something_new")),
        plain(told),
        broken("reset"),
        plain(told),
        FakeResponse([lined(result())[:20], UpstreamFault("reset", sent=True)], 200, {}),
        plain(told),
        FakeResponse([lined(result())], 200, {}),
    ]
    await create(stand, file_of(line()), plain(batch()), *answers)
    await over(stand)
    assert (stand.post.cost_pico, stand.post.exact) == (GOOD, True)
    assert stand.upstream.answers == []


async def test_what_never_ends_costs_its_ceiling(stand: Stand) -> None:
    await create(stand, file_of(line()), plain(batch()), plain(batch()))
    stand.clock.advance(LIFE_S + 1)
    await over(stand)
    assert (stand.post.cost_pico, stand.post.exact) == (TOP, False)


# ---- what may be in a file

NOT_IN_A_FILE: list[tuple[Any, str, str]] = [
    (b"{not json", "malformed_request", "line 1"),
    (line(url="/v1/embeddings"), "invalid_field", "/v1/embeddings"),
    (line(method="GET"), "invalid_field", "method"),
    (line(custom_id=None), "invalid_field", "custom_id"),
    (line(more=1), "invalid_field", "more"),
    (msgspec.json.encode(line())[:-1] + b',"body":{}}', "duplicate_field", "body"),
    (line(chat(stream=True, max_tokens=9)), "invalid_field", "stream"),
    (line(chat()), "unbounded_request", "not capped"),
    (line(chat(max_tokens=9, service_tier="priority")), "invalid_field", "service_tier"),
    (line(chat(max_tokens=9, web_search_options={})), "unbounded_request", "web_search"),
    (line(chat(max_tokens=9, made_up=1)), "unbounded_request", "made_up"),
    (line(chat(max_tokens=9, model="unheard-of")), "unpriced_model", "unheard-of"),
    (line(chat(max_tokens=9, model="openai/" + MODEL)), "invalid_field", MODEL),
]


@pytest.mark.parametrize(("wrong", "word", "told"), NOT_IN_A_FILE)
async def test_a_line_that_cannot_be_run_is_named(stand: Stand, wrong: Any, word: str, told: str) -> None:
    exchange = await create(stand, file_of(wrong))
    assert (exchange.word, [one.route for one in stand.upstream.sent]) == (word, ["GET /files/file-in/content"])
    message = exchange.json["error"]["message"]
    assert "line 1" in message
    assert told in message
    stand.at_rest()


async def test_a_second_model_is_refused(stand: Stand) -> None:
    exchange = await create(stand, file_of(line(), b"", line(chat(model="gpt-4o-mini", max_tokens=9))))
    assert exchange.word == "invalid_field"
    assert "line 3" in exchange.json["error"]["message"]


async def test_the_first_ten_faults_are_told_at_once(stand: Stand) -> None:
    lines = [line() if number % 2 else line(chat()) for number in range(40)]
    exchange = await create(stand, file_of(*lines))
    message = exchange.json["error"]["message"]
    assert [f"line {n}:" in message for n in (1, 3, 19, 21)] == [True, True, True, False]
    assert "there may be more" in message.lower()
    assert exchange.json["bursar"]["facts"]["line"] == 1


@pytest.mark.parametrize(
    ("policy", "body", "word"),
    [
        (Policy(models=("other-*",)), LINE, "model_not_allowed"),
        (Policy(max_prompt_chars=2), LINE, "prompt_too_large"),
        (Policy(max_tokens_cap=50), LINE, "max_tokens_exceeded"),
        (Policy(stop=("END",)), LINE, "invalid_field"),
        (Policy(purposes=("inference",)), LINE, "purpose_not_allowed"),
    ],
)
async def test_policy_holds_for_each_line(make_stand: MakeStand, policy: Policy, body: Any, word: str) -> None:
    stand = make_stand(provider_keys=[KEY], budgets=[budget(PLENTY)], policy=policy)
    assert (await create(stand, file_of(line(body)))).word == word
    assert "batches" not in [one.route for one in stand.upstream.sent]
    stand.at_rest()


async def test_ids_in_lines_are_the_teams_own(stand: Stand) -> None:
    def reading(file_id: str) -> dict[str, Any]:
        part = {"type": "file", "file": {"file_id": file_id}}
        return line(chat(max_tokens=9, messages=[{"role": "user", "content": [part]}]))

    await own_file(stand, "file-ours", "user_data")
    assert (await create(stand, file_of(reading("file-theirs")))).word == "unknown_id"
    exchange = await create(stand, file_of(reading("file-ours")), plain(batch()), plain(batch("failed")))
    assert exchange.status == 200
    await over(stand)


async def test_none_is_made_at_a_provider_that_is_left_alone(stand: Stand) -> None:
    mark = BreakerMark(id="provider/openai", open=True, at=stand.clock.now())
    stand.node.tenants.change(Delta(version=stand.node.tenants.version + 1, breakers=[mark]))
    assert (await create(stand, file_of(line()))).word == "upstream_unavailable"
    assert "batches" not in [one.route for one in stand.upstream.sent]
    stand.at_rest()


async def test_fields_not_known_here_may_not_name_what_others_made(make_stand: MakeStand) -> None:
    stand = make_stand(provider_keys=[KEY], budgets=[budget(PLENTY)], policy=Policy(unknown_fields="allow"))
    await own_file(stand, "file-theirs")
    (theirs,) = await stand.made_ids.listed("team-1", "file", most=1)
    await stand.made_ids.forget("team-1", "file", "file-theirs")
    await stand.made_ids.keep([msgspec.structs.replace(theirs, team="team-2")])
    for name, word in (("file-theirs", "unknown_id"), ("file-nobodys", None)):
        lines = [line(chat(max_tokens=9)), line(chat(max_tokens=9, brand_new={"a": [name]}))]
        assert (await create(stand, file_of(*lines), plain(batch()), plain(batch("failed")))).word == word
        if word:
            assert len(stand.upstream.sent) == 1, "the file was read, and nothing was made"
            stand.upstream.answers.clear()
            stand.at_rest()
    await over(stand)


async def test_only_files_of_the_team_that_were_uploaded_for_it(stand: Stand) -> None:
    assert (await create(stand, input_file_id="file-theirs")).word == "unknown_id"
    await own_file(stand, "file-text", "user_data")
    assert (await create(stand, input_file_id="file-text")).word == "invalid_field"
    assert stand.upstream.sent == []


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoint": "/v1/images"},
        {"completion_window": "1h"},
        {"priority": 1},
        {"input_file_id": None},
        {"metadata": 1},
    ],
)
async def test_a_request_is_read_strictly(stand: Stand, fields: dict[str, Any]) -> None:
    assert (await create(stand, **fields)).word == "invalid_field"
    assert stand.upstream.sent == []


async def test_a_file_may_be_too_large(stand: Stand) -> None:
    stand.node.batches = BatchRoom(lines=2)
    assert (await create(stand, file_of(*[line()] * 3))).word == "invalid_field"
    stand.node.batches = BatchRoom(most_bytes=100)
    assert (await create(stand, file_of(line()))).word == "invalid_field"
    assert (await create(stand, file_of())).word == "invalid_field"
    stand.at_rest()


async def test_guards_look_at_each_line(stand: Stand) -> None:
    class Screen:
        name = "screen"

        def look(self, call: Any, content: Any) -> Refusal | None:
            return Refusal("guard_blocked", "Not this") if b"secret" in call.body else None

    stand.node.screens = [Screen()]
    bad = chat(max_tokens=9, messages=[{"role": "user", "content": "secret"}])
    exchange = await create(stand, file_of(line(), line(bad)))
    assert exchange.word == "guard_blocked"
    assert "line 2" in exchange.json["error"]["message"]


async def test_tokens_of_the_whole_batch_are_taken(make_stand: MakeStand) -> None:
    limit = LimitDef(unit="tokens", amount=100, per_seconds=3600)
    stand = make_stand(provider_keys=[KEY], budgets=[budget(PLENTY)], policy=Policy(limits=(limit,)))
    assert (await create(stand, file_of(*[line()] * 9), plain(batch()), plain(batch("failed")))).status == 200
    await over(stand)
    assert (await create(stand, file_of(line()))).word == "rate_limited"


# ---- a provider that fails where it is asked for


@pytest.mark.parametrize(
    ("answer", "word", "kept"),
    [
        (unsent(), "upstream_unreachable", False),
        (UpstreamFault("timeout_head", sent=True), "upstream_timeout", True),
        (broken("reset"), "upstream_broken", True),
        (error(500), None, True),
        (error(400), None, False),
        (plain({"object": "list"}), "upstream_broken", True),
        (plain(batch(made_id="../models")), "upstream_broken", True),
        (plain(batch(input_file_id="file-other")), "upstream_broken", True),
    ],
)
async def test_a_batch_that_may_have_been_made_costs_its_ceiling(
    stand: Stand, answer: Any, word: str | None, kept: bool
) -> None:
    exchange = await create(stand, file_of(line()), answer)
    assert exchange.word == word
    assert stand.balance() == (TOP if kept else 0, 0)
    assert await jobs(stand) == []
    assert (await stand.made_ids.listed("team-1", "batch", most=9)) == []
    stand.at_rest()


async def test_a_file_that_cannot_be_read_begins_nothing(stand: Stand) -> None:
    for answer in (error(404), error(500), broken("reset"), unsent()):
        assert (await create(stand, answer)).status >= 500
    assert stand.ends == []
    stand.at_rest()


async def test_without_a_record_it_is_cancelled_and_booked_all_the_same(stand: Stand) -> None:
    await own_file(stand)
    keep = stand.made_ids.keep

    async def fails(made: Sequence[MadeId]) -> None:
        if any(one.kind == "job" for one in made):
            raise Refusal("ids_unavailable", "Away")
        await keep(made)

    stand.made_ids.keep = fails  # type: ignore[method-assign]
    told = batch("cancelled", output_file_id="file-out")
    files = FakeResponse([lined(result())], 200, {})
    exchange = await create(stand, file_of(line()), plain(batch()), plain(batch("cancelling")), plain(told), files)
    assert exchange.word == "ids_unavailable"
    assert b"batch_1" not in exchange.sent
    assert [one.route for one in stand.upstream.sent][2] == "POST /batches/batch_1/cancel"
    await over(stand)
    assert (stand.post.cost_pico, stand.post.exact) == (GOOD, True)


async def test_a_record_that_was_kept_although_it_was_said_not_to_be_corrects_nothing_twice(stand: Stand) -> None:
    keep = stand.made_ids.keep

    async def says_no(made: Sequence[MadeId]) -> None:
        await keep(made)
        if any(one.kind == "job" for one in made):
            raise Refusal("ids_unavailable", "The id was kept or not")

    stand.made_ids.keep = says_no  # type: ignore[method-assign]
    told = batch("cancelled", output_file_id="file-out")
    files = FakeResponse([lined(result())], 200, {})
    exchange = await create(stand, file_of(line()), plain(batch()), plain(batch("cancelling")), plain(told), files)
    assert exchange.word == "ids_unavailable"
    await over(stand)
    stand.node.boot = "another"
    await take_up(stand.node)
    await over(stand)
    assert stand.balance() == (GOOD, 0)


async def test_cancelled_wherever_it_waits(make_stand: MakeStand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held for what was not asked for; what may have been made is followed, or costs its ceiling."""

    async def here(work: Callable[..., Any], *args: Any) -> Any:
        await asyncio.sleep(0)  # as many turns in each run: no thread is waited for
        return work(*args)

    monkeypatch.setattr(asyncio, "to_thread", here)
    ends: set[str] = set()
    turns, finished = 0, False
    while not finished:
        stand = make_stand(provider_keys=[KEY], budgets=[budget(PLENTY)])
        await own_file(stand)
        stand.upstream.will(file_of(line()), plain(batch()), *[plain(batch("failed"))] * 2)
        body = {"input_file_id": "file-in", "endpoint": CHAT, "completion_window": "24h"}
        task = asyncio.ensure_future(stand.pipeline.serve(stand.exchange(PATH, body)))
        for _ in range(turns):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        asked = any(one.route == "batches" for one in stand.upstream.sent)
        ends.add("followed" if stand.node.followed else "ended" if asked else "nothing")
        await over(stand)
        assert await jobs(stand) == []
        assert stand.balance() in ([(TOP, 0), (0, 0)] if asked else [(0, 0)])
        assert stand.node.batches.reading == 0
        stand.at_rest()
        turns += 1
    assert ends == {"nothing", "ended", "followed"}


# ---- whose it is


async def test_one_is_shown_cancelled_and_listed_as_last_seen(stand: Stand) -> None:
    await create(stand, file_of(line()), plain(batch()))
    node = stand.node
    for task in list(node.followed):
        task.cancel()
    await asyncio.gather(*node.followed, return_exceptions=True)
    stand.upstream.will(plain(batch("completed", output_file_id="file-out")), plain(batch("cancelling")))
    shown = stand.exchange(f"{PATH}/batch_1", b"", method="GET")
    await stand.pipeline.serve(shown)
    assert shown.json == batch("completed", output_file_id="file-out")
    assert await stand.made_ids.find("team-1", "file", "file-out") is not None
    cancelled = stand.exchange(f"{PATH}/batch_1/cancel", b"{}")
    await stand.pipeline.serve(cancelled)
    assert (cancelled.status, stand.upstream.sent[-1].route) == (200, "POST /batches/batch_1/cancel")
    assert stand.upstream.sent[-1].body == b""
    listed = stand.exchange(PATH, b"", method="GET")
    await stand.pipeline.serve(listed)
    assert [(row["id"], row["status"]) for row in listed.json["data"]] == [("batch_1", "cancelling")]
    sent = len(stand.upstream.sent)
    for path, method in ((f"{PATH}/batch_2", "GET"), (f"{PATH}/batch_2/cancel", "POST")):
        other = stand.exchange(path, b"", method=method)
        await stand.pipeline.serve(other)
        assert (other.status, other.word) == (404, "unknown_id")
    assert len(stand.upstream.sent) == sent
    stand.journal.void(1, "test")


async def test_a_list_comes_in_pages(stand: Stand) -> None:
    async def listed(query: str) -> Any:
        exchange = stand.exchange(PATH, b"", method="GET")
        exchange.query = query
        await stand.pipeline.serve(exchange)
        return exchange.json if exchange.status == 200 else exchange.word

    for number in range(3):
        made = batch("failed", f"batch_{number}")
        assert (await create(stand, file_of(line()), plain(batch(made_id=made["id"])), plain(made))).status == 200
        await over(stand)
        stand.clock.advance(1)
    page = await listed("limit=2")
    assert ([row["id"] for row in page["data"]], page["has_more"]) == (["batch_2", "batch_1"], True)
    assert (page["first_id"], page["last_id"]) == ("batch_2", "batch_1")
    page = await listed("after=batch_1")
    assert ([row["id"] for row in page["data"]], page["has_more"]) == (["batch_0"], False)
    assert await listed("after=batch_9") == "unknown_id"
    for wrong in ("0", "x", "9" * 12):
        assert await listed(f"limit={wrong}") == "invalid_field"


async def test_another_batchs_word_is_not_handed_on(stand: Stand) -> None:
    await create(stand, file_of(line()), plain(batch()), plain(batch("failed")))
    await over(stand)
    exchange = await stand.ask(plain(batch(made_id="batch_9")), path=f"{PATH}/batch_1", method="GET", body=b"")
    assert exchange.word == "upstream_broken"


# ---- who follows


async def left(stand: Stand, **changes: Any) -> MadeId:
    """A job whose follower is gone: its hold was booked at its ceiling. -> its record."""
    await create(stand, file_of(line()), plain(batch()))
    for task in list(stand.node.followed):
        task.cancel()
    await asyncio.gather(*stand.node.followed, return_exceptions=True)
    (record,) = await stand.made_ids.listed("", "job", most=9)
    job = read_job(record.about)
    assert job is not None
    stand.journal.post(job.hold, Settlement(job.ceiling, None, False, "unreconciled"))
    stand.node.boot = "another"
    known = msgspec.structs.replace(record, about=encode_job(msgspec.structs.replace(job, **changes)))
    assert await stand.made_ids.swap(record, known)
    return known


@pytest.mark.parametrize("cost", [(10, 5), (10**6, 10**6)])
async def test_a_job_of_a_dead_process_is_taken_up_and_corrected(stand: Stand, cost: tuple[int, int]) -> None:
    await left(stand)
    assert stand.balance() == (TOP, 0)
    told = batch("completed", output_file_id="file-out")
    stand.upstream.will(plain(told), FakeResponse([lined(result(*cost))], 200, {}))
    await take_up(stand.node)
    await take_up(stand.node)
    await over(stand)
    assert stand.balance() == (cost[0] * IN + cost[1] * OUT, 0)
    assert await jobs(stand) == []


async def test_in_a_fleet_a_job_is_taken_up_when_its_mark_has_run_out(stand: Stand) -> None:
    stand.node.batches = BatchRoom(alone=False)
    await left(stand)
    await take_up(stand.node)
    assert not stand.node.followed
    stand.clock.advance(CLAIM_S + 1)
    stand.upstream.will(plain(batch("failed")))
    await take_up(stand.node)
    (job,) = await jobs(stand)
    assert job.by == "another"
    await over(stand)
    assert stand.balance() == (0, 0)
    (job,) = await jobs(stand)
    assert job.settled == "another", "others see that it was booked"
    stand.clock.advance(CLAIM_S + 1)
    await take_up(stand.node)
    assert not stand.node.followed


async def test_one_that_another_has_taken_is_let_go(stand: Stand) -> None:
    stand.node.batches = BatchRoom(alone=False)
    await left(stand)
    stand.clock.advance(CLAIM_S + 1)
    stand.upstream.will(plain(batch()))
    await take_up(stand.node)
    (record,) = await stand.made_ids.listed("", "job", most=9)
    job = read_job(record.about)
    assert job is not None
    taken = msgspec.structs.replace(job, by="a third", until=job.until + 10**15)
    assert await stand.made_ids.swap(record, msgspec.structs.replace(record, about=encode_job(taken)))
    stand.clock.advance(CLAIM_S / 2)
    await over(stand)
    assert stand.balance() == (TOP, 0)
    assert await jobs(stand) == [taken]


async def test_who_has_the_hold_takes_his_job_back(stand: Stand) -> None:
    """Others thought that it was dead; only it can end the hold."""
    stand.node.batches = BatchRoom(alone=False)
    gate = asyncio.Event()

    class Waits(FakeResponse):
        async def read(self, limit: int) -> bytes:
            await gate.wait()
            return await super().read(limit)

    waiting = Waits([msgspec.json.encode(batch("failed"))], 200, {})
    await create(stand, file_of(line()), plain(batch()), waiting)
    (record,) = await stand.made_ids.listed("", "job", most=9)
    job = read_job(record.about)
    assert job is not None
    taken = msgspec.structs.replace(job, by="another", until=job.until + 10**15)
    assert await stand.made_ids.swap(record, msgspec.structs.replace(record, about=encode_job(taken)))
    gate.set()
    await over(stand)
    assert stand.post.cost_pico == 0
    (job,) = await jobs(stand)
    assert job.settled == stand.node.boot


async def test_what_is_not_on_record_of_this_version_is_left_alone(stand: Stand) -> None:
    await own_file(stand)
    now = stand.clock.now()
    strange = MadeId(
        team="", kind="job", id="x", key="k", provider="openai", made_at=now, expires_at=now + 10**12, about="{}"
    )
    await stand.made_ids.keep([strange])
    await take_up(stand.node)
    assert not stand.node.followed
