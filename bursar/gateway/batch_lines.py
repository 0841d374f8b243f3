"""The lines of a batch's input file: each is a call, and takes the stages that precede a hold as a call does.

A file cannot be changed: what policy would change in a call has to stand in the line already. What all lines can cost
together is what the batch holds. The first faults are told at once, with the numbers of their lines.
"""

import asyncio
from typing import NamedTuple

import msgspec

from bursar.core.batches import BatchRequest
from bursar.core.calls import Call, Ceiling, Edits
from bursar.core.ceiling import ceiling
from bursar.core.content import content_of
from bursar.core.controls import would_refuse
from bursar.core.decisions import RuleAsked
from bursar.core.errors import Refusal
from bursar.core.explain import QUOTING
from bursar.core.made_ids import Reference
from bursar.core.policy import Allowed, decide, unpriced_refusal
from bursar.core.prices import STANDARD_TIERS, Price
from bursar.gateway.flight import Flight
from bursar.gateway.forward import edits_for
from bursar.gateway.guard import first_finding
from bursar.gateway.node import Node, Option
from bursar.gateway.price import Priced, find_options, free_price, price_of
from bursar.gateway.shadow import note_shadow
from bursar.ports import BatchForms, Dialect

MOST_FAULTS = 10  # told in one answer
MOST_REFERENCES = 1_000  # distinct ids in all lines
_MOST_LOOSE = 20_000  # distinct texts in fields not known here


class Fault(NamedTuple):
    line: int
    refusal: Refusal


class _Rates(NamedTuple):
    """By what all lines are served and billed: fixed by the first of them that can be read."""

    model: str
    option: Option
    listed: Price | None
    price: Price  # that of the model, or what stands in for it
    hard: bool
    budgets: tuple[str, ...]


class Lines:
    """Reads them one after the other, and adds up what they can cost."""

    def __init__(self, node: Node, flight: Flight, dialect: Dialect, forms: BatchForms, request: BatchRequest) -> None:
        assert flight.plan is not None
        self._node, self._flight, self._plan = node, flight, flight.plan
        self._dialect, self._forms, self._request = dialect, forms, request
        self._guarded = flight.plan.guard_mode != "off" and bool(node.screens)
        self._rates: _Rates | None = None
        self._sums = [0] * 6
        self._bytes = self._chars = self._cap = 0  # of the largest line
        self._shadowed: dict[tuple[str, str], RuleAsked] = {}
        self._allowed: Allowed | None = None
        self._seen = 0
        self.count = 0
        self.dearest = 0
        self.references: set[Reference] = set()
        self.loose: set[str] = set()
        self.faults: list[Fault] = []

    async def look(self, raws: list[bytes]) -> None:
        """Some more lines. Raises Refusal when enough of them are at fault, or there are too many."""
        first, self._seen = self._seen + 1, self._seen + len(raws)
        read = await asyncio.to_thread(self._read, raws, first)
        for number, call in read:
            if isinstance(call, Refusal):
                self._fail(number, call)
                continue
            try:
                self._weigh(call)
            except Refusal as refusal:
                self._fail(number, refusal)
        most = self._node.batches.lines
        if self.count > most:
            raise Refusal("invalid_field", f"The file has more than {most} lines", "Make several batches of it")

    def _fail(self, number: int, refusal: Refusal) -> None:
        self.faults.append(Fault(number, refusal))
        if len(self.faults) >= MOST_FAULTS:
            raise told(self.faults, more=True)

    # ---- in a thread: nothing of the node is touched but what never changes

    def _read(self, raws: list[bytes], first: int) -> list[tuple[int, Call | Refusal]]:
        found: list[tuple[int, Call | Refusal]] = []
        for number, raw in enumerate(raws, first):
            if not raw.strip():
                continue
            try:
                found.append((number, self._call(raw)))
            except Refusal as refusal:
                found.append((number, refusal))
            except RecursionError:
                found.append((number, Refusal("malformed_request", "The line is nested too deeply")))
        return found

    def _call(self, raw: bytes) -> Call:
        """Raises Refusal."""
        line = self._forms.line(raw)
        if line.endpoint != self._request.endpoint:
            hint = f"All lines of this batch go to {self._request.endpoint}"
            raise Refusal("invalid_field", f"`url` is {line.endpoint[:100]!r}", hint)
        call = self._dialect.understand(self._request.route, line.body)
        if call.stream:
            raise Refusal("invalid_field", "`stream` is true", "A batch streams nothing: leave it out")
        if call.background or call.server_tools:
            what = "`background`" if call.background else f"The tool {call.server_tools[0].name}"
            raise Refusal("unbounded_request", f"{what} is not offered in a batch", "Ask in a call of its own")
        if call.service_tier not in STANDARD_TIERS:
            raise Refusal("invalid_field", "`service_tier` is given", "A batch has a price of its own: leave it out")
        call.purpose, call.content = "batch", content_of(call)
        if self._guarded and (verdict := first_finding(self._node, call)) is not None:
            if self._plan.guard_mode == "enforce":
                raise verdict
            self._shadowed.setdefault(("guard", "guard"), would_refuse("guard", "guard", verdict.word))
        return call

    # ---- on the loop

    def _weigh(self, call: Call) -> None:
        """Policy, content, price. Raises Refusal."""
        rates = self._rates or self._begin(call)
        if call.model != rates.model:
            message = f"It asks for the model {call.model[:100]!r}, others for {rates.model[:100]!r}"
            raise Refusal("invalid_field", message, "A batch has one model: make one of each")
        allowed = decide(
            self._plan,
            call,
            rates.listed,
            user=self._flight.user,
            tag_default=rates.option.key.max_tokens_default,
            hard_way=rates.hard,
        )
        self._check_unchanged(call, allowed, rates)
        for rule in allowed.shadowed:
            self._shadowed.setdefault((rule.control, rule.rule), rule)
        top = ceiling(
            call,
            rates.price,
            allowed.output_cap,
            self._node.estimate,
            rates.hard,
            allow_unknown=allowed.allow_unknown,
            key_id=self._plan.key_id,
        )
        self._take(call, allowed, top)

    def _take(self, call: Call, allowed: Allowed, top: Ceiling) -> None:
        self.references.update(call.refers)
        if len(self.references) > MOST_REFERENCES:
            raise Refusal("invalid_field", f"The lines name more than {MOST_REFERENCES} ids", "Make several batches")
        self.loose.update(call.loose)
        if len(self.loose) > _MOST_LOOSE:
            message = f"The fields that Bursar does not know hold more than {_MOST_LOOSE} texts which could be ids"
            raise Refusal("invalid_field", message, "Leave them out, or make several batches")
        self.count += 1
        self._bytes = max(self._bytes, call.input_bytes)
        self._chars = max(self._chars, call.prompt_chars)
        self._cap = max(self._cap, allowed.output_cap)
        self.dearest = max(self.dearest, top.pico)
        for place, name in enumerate(Ceiling.__struct_fields__):
            self._sums[place] += getattr(top, name)
        self._allowed = allowed

    def _begin(self, call: Call) -> _Rates:
        """The one way that leads to the account which has the file. Raises Refusal."""
        node, flight, plan = self._node, self._flight, self._plan
        if plan.enforced.models and not plan.allows_model(call.model):
            raise Refusal("model_not_allowed", f"The key may not use the model {call.model[:100]!r}", "See /v1/models")
        flight.call = call
        option = find_options(node, flight)[0]
        listed = found = price_of(node, plan, option)
        billed_as = call.model if found is None else found.model
        budgets = plan.budget_set(call.model, billed_as, flight.user, option.key.id)
        if found is None:
            if budgets.hard or plan.enforced.refuses_unpriced:
                raise unpriced_refusal(call)
            found = node.prices.dearest(option.provider.prices, node.clock.now()) or free_price(option)
        else:
            flight.model = found.model
        self._rates = _Rates(call.model, option, listed, found, budgets.hard, budgets.ids)
        return self._rates

    def _check_unchanged(self, call: Call, allowed: Allowed, rates: _Rates) -> None:
        """Raises Refusal where the call would be sent otherwise than it stands in the file."""
        if rates.option.upstream_model != call.model:
            hint = f"In a batch the provider reads it as it stands: write {rates.option.upstream_model[:100]!r}"
            raise Refusal("invalid_field", f"`model` is {call.model[:100]!r}", hint)
        cap = allowed.max_tokens_applied
        if cap is not None and call.max_tokens is None:
            raise Refusal("unbounded_request", "The output is not capped", f"Ask for at most {cap} output tokens")
        if cap is not None:
            raise Refusal(
                "max_tokens_exceeded",
                f"{call.max_tokens} output tokens are asked for; the policy allows {cap}",
                f"Ask for at most {cap}",
                facts={"asked": call.max_tokens or 0, "limit": cap},
            )
        if self._dialect.rewrite(call, edits_for(rates.option, call, allowed.edits)) != call.body:
            raise Refusal(
                "invalid_field",
                "The call would be changed before it is sent: its cap of the output, or stop sequences of the policy",
                "Write the cap into the line; where the policy has stop sequences, ask in calls of their own",
            )

    # ---- at the end

    def whole(self) -> Priced:
        """The batch as one call, which the flight has then: its largest line, so many times. Raises Refusal."""
        if self.faults:
            raise told(self.faults, more=False)
        rates, flight = self._rates, self._flight
        if rates is None or self._allowed is None:
            raise Refusal("invalid_field", "The file has no lines", "Write one call a line")
        self._node.counters.guard_passes += 1
        for rule in self._shadowed.values():
            note_shadow(self._node, flight, rule)
        flight.call = Call(
            route="batches",
            dialect=self._dialect.name,
            purpose="batch",
            model=rates.model,
            stream=False,
            body=b"",
            input_bytes=self._bytes,
            prompt_chars=self._chars,
            messages=self.count,
            max_tokens=self._cap,
            n=self.count,
            prompts=self.count,
            writes=self._cap > 0,
        )
        flight.allowed = msgspec.structs.replace(self._allowed, edits=Edits(), shadowed=[])
        priced = Priced(
            option=rates.option,
            price=rates.price,
            ceiling=Ceiling(*self._sums),
            budgets=rates.budgets,
            strict=rates.hard,
        )
        flight.ways = [priced]
        return priced


def told(faults: list[Fault], *, more: bool) -> Refusal:
    """All of them in one answer. Its word is one whose message may quote, where any does: it is then not kept."""
    first = next((fault for fault in faults if fault.refusal.word in QUOTING), faults[0]).refusal
    shown = [f"line {line}: {refusal.message} ({refusal.word})" for line, refusal in faults]
    message = f"The file cannot be run: {'; '.join(shown)}"
    hint = faults[0].refusal.hint
    if more:
        hint = f"{hint}. These are the first {len(faults)}; there may be more" if hint else "There may be more"
    return Refusal(first.word, message, hint, facts={**first.facts, "line": faults[0].line}, counter=first.counter)
