"""Budgets: money limits on a key, team, owner, user, tag, model or node. Each change is a new version.

A definition is never edited in the ledger's eyes: a hold names the version that admitted it. A removed budget keeps its
id, marked deleted, so that the history stays readable and the id is not taken over by another meaning.
"""

from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import replace

from bursar.control.directory import Book, Change, Directory, Lookup
from bursar.control.naming import check_id, check_name, id_from
from bursar.core.directory import BudgetDef, Mode, Owner, ProviderKey, SubjectKind, Team, VirtualKey, WindowDef
from bursar.core.errors import Refusal
from bursar.core.units import pico_to_usd
from bursar.core.windows import span_of

MAX_LIMIT_PICO = 10**12 * 10**12  # a trillion USD: beyond it somebody mistook the unit
_MIN_ROLLING_S = 60
_MAX_ROLLING_S = 366 * 86_400
_MAX_THRESHOLD = 1000


class BudgetTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What can be changed about a budget. The limit is pico-USD; thresholds are percent of it."""

    limit_pico: int
    hard: bool = True
    window: WindowDef = WindowDef()
    thresholds: tuple[int, ...] = (50, 80, 95, 100)
    name: str = ""
    mode: Mode = "enforce"


class Budgets:
    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def all(self, *, deleted: bool = False) -> list[BudgetDef]:
        return [budget for budget in self._directory.book.all(BudgetDef) if deleted or not budget.deleted]

    def get(self, budget_id: str) -> BudgetDef:
        return living(self._directory.book, budget_id)

    async def create(
        self, actor: str, subject_kind: SubjectKind, subject: str, terms: BudgetTerms, budget_id: str = ""
    ) -> BudgetDef:
        """Refuses with unknown_id (subject), invalid_input or already_exists."""
        made: list[BudgetDef] = []

        def decide(book: Book) -> Change:
            check_subject(book, subject_kind, subject)
            taken = {budget.id for budget in book.all(BudgetDef)}
            chosen = check_id(budget_id) if budget_id else id_from(_suggested_id(subject_kind, subject, terms), taken)
            if chosen in taken:
                raise Refusal("already_exists", f"There is or was a budget {chosen!r}", "Choose another --id")
            blank = BudgetDef(id=chosen, version=0, subject_kind=subject_kind, subject=subject, limit_pico=0)
            made[:] = [_apply(blank, terms, self._directory.now())]
            return Change(action="budget.create", target=f"budget/{chosen}", put=made, facts=_facts(made[0]))

        await self._directory.change(actor, decide)
        return made[0]

    async def update(self, actor: str, budget_id: str, edit: Callable[[BudgetDef], BudgetTerms]) -> BudgetDef:
        """`edit` sees the budget as it is when its turn has come.

        A raised limit counts from the next hold; a lowered one may already be passed by what is posted.
        """

        def decide(book: Book) -> Change:
            before = living(book, budget_id)
            terms = edit(before)
            if _terms(before) == terms:
                return Change(action="budget.update", target=f"budget/{budget_id}")
            after = _apply(before, terms, self._directory.now())
            facts = {**_facts(after), "before_usd": pico_to_usd(before.limit_pico)}
            return Change(action=_verb(before, after), target=f"budget/{budget_id}", put=[after], facts=facts)

        await self._directory.change(actor, decide)
        return self.get(budget_id)

    async def remove(self, actor: str, budget_id: str) -> None:
        """From the next hold on it refuses nothing. Its id stays taken."""

        def decide(book: Book) -> Change:
            before = living(book, budget_id)
            after = replace(before, deleted=True, version=before.version + 1)
            return Change(action="budget.remove", target=f"budget/{budget_id}", put=[after], facts=_facts(before))

        await self._directory.change(actor, decide)


def living(book: Book, budget_id: str) -> BudgetDef:
    """A budget that was not removed. Raises Refusal(unknown_id)."""
    budget = book.get(BudgetDef, budget_id)
    if budget.deleted:
        raise Refusal("unknown_id", f"The budget {budget_id!r} was removed", "See: bursar budgets list")
    return budget


def _terms(budget: BudgetDef) -> BudgetTerms:
    return BudgetTerms(**{name: getattr(budget, name) for name in BudgetTerms.__struct_fields__})


def _apply(budget: BudgetDef, terms: BudgetTerms, now: int) -> BudgetDef:
    for refusal in faults_of(terms, now):
        raise refusal
    return replace(
        budget,
        version=budget.version + 1,
        limit_pico=terms.limit_pico,
        hard=terms.hard,
        window=terms.window,
        thresholds=tuple(sorted(set(terms.thresholds))),
        name=check_name(terms.name) if terms.name else "",
        mode=terms.mode,
    )


def faults_of(terms: BudgetTerms, now: int) -> Iterator[Refusal]:
    """Everything that a budget may not say, as Refusals(invalid_input)."""
    if not 0 <= terms.limit_pico <= MAX_LIMIT_PICO:
        yield Refusal("invalid_input", "A limit is between $0 and a trillion dollars", 'Write --limit "$50"')
    if not all(0 < percent <= _MAX_THRESHOLD for percent in terms.thresholds):
        yield Refusal("invalid_input", "A threshold is a percentage above 0", "Write --threshold 80")
    window = terms.window
    if window.kind == "rolling" and not _MIN_ROLLING_S <= window.seconds <= _MAX_ROLLING_S:
        yield Refusal("invalid_input", "A rolling window lasts from 1m to 366d", "Write --window rolling:24h")
    if not 0 <= window.week_start <= 6:
        yield Refusal("invalid_input", "A week starts on day 0 (Monday) to 6 (Sunday)", "Write --week-start 0")
        return
    try:
        span_of(window, now)
    except (ValueError, KeyError, OSError):  # zoneinfo raises all three for a name it cannot find
        message = f"{window.zone[:64]!r} is not a time zone"
        yield Refusal("invalid_input", message, "Use an IANA name such as Europe/Berlin")


def check_subject(book: Lookup, kind: SubjectKind, subject: str) -> None:
    """Subjects that are entities must exist; users, tags, models and nodes are names."""
    if kind == "key":
        book.get(VirtualKey, subject)
    elif kind == "team":
        book.get(Team, subject)
    elif kind == "owner":
        book.get(Owner, subject)
    elif kind == "provider_key":
        book.get(ProviderKey, subject)
    elif not subject.strip() or not subject.isprintable():
        raise Refusal("invalid_input", f"A budget on a {kind} needs its name", f"Write --{kind} NAME")


def _suggested_id(kind: SubjectKind, subject: str, terms: BudgetTerms) -> str:
    window = terms.window
    return f"{kind}-{subject}-{window.period if window.kind == 'calendar' else window.kind}"


def _verb(before: BudgetDef, after: BudgetDef) -> str:
    if after.limit_pico == before.limit_pico:
        return "budget.update"
    return "budget.raise" if after.limit_pico > before.limit_pico else "budget.lower"


def _facts(budget: BudgetDef) -> dict[str, str | int]:
    return {
        "subject": f"{budget.subject_kind}/{budget.subject}",
        "limit_usd": pico_to_usd(budget.limit_pico),
        "hard": "yes" if budget.hard else "no",
        "version": budget.version,
    }
