"""What a call will probably use: learned tokens per byte and output length, each with its middle and its high side.

Soft budgets and token limits go by the middle (p50): half of the calls use less. `high` (p95) is told by
`POST /v1/estimate`. Hard budgets never go by either. Tokens per byte are learned by model and content class, output by
model and key, from settled usage, so that no tokenizer is needed and a new one is followed by itself. Floats: these
are guesses, not money.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import msgspec

from bursar.core.calls import Usage
from bursar.core.quantiles import Quantiles, Sketch, around

PRIOR_RATIO = around(0.25, 0.4)  # tokens per UTF-8 byte, where the shipped priors say nothing
PRIOR_OUTPUT = around(300.0, 2_000.0)  # tokens
_RATIO_MAX = 4.0  # an image in few bytes must not teach nonsense
_OUTPUT_MAX = 1e7
_TELLS_MODEL = (
    8  # of so many answers of a key one is the model's too, from which new keys start: half a microsecond less
)
_WELL_KNOWN = 512  # observations, from which on one usage in so many is taken in: it follows a change in some hundred
_ONE_IN = 5  # calls then. No power of two: callers who alternate must be seen from both sides
_ROWS_MAX = 4_096  # of each kind; the oldest makes room

Name = tuple[str, str]
Rows = dict[Name, Sketch]


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """Priors of the models with one tokenizer: (p50, p95) of tokens per byte by content class."""

    models: tuple[str, ...]  # globs
    ratios: dict[str, tuple[float, float]]


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """Everything learned, as it is kept over a restart: (model, content class) and (model, key) to its sketch."""

    ratios: tuple[tuple[str, str, Quantiles], ...] = ()
    outputs: tuple[tuple[str, str, Quantiles], ...] = ()


class Estimate:
    """Expected tokens. Owned by one thread; `state` and `restore` carry it over a restart."""

    def __init__(self, priors: Iterable[Family] = ()) -> None:
        self._priors = tuple(priors)
        self._ratios: Rows = {}
        self._outputs: Rows = {}  # key "" = of the model, whatever the key
        self.learned = 0  # usages taken in

    def expected(self, model: str, content: str, key_id: str, input_bytes: int, cap: int) -> tuple[int, int]:
        """(input tokens, output tokens <= cap) that half of such calls stay below."""
        ratio = self._ratios.get((model, content)) or self._new_ratio(model, content)
        output = int((self._outputs.get((model, key_id)) or self._output(model)).p50) + 1
        return int(input_bytes * ratio.p50) + 1, cap if cap < output else output

    def high(self, model: str, content: str, key_id: str, input_bytes: int, cap: int) -> tuple[int, int]:
        """The same that nineteen of twenty such calls stay below; never less than `expected`."""
        ratio = self._ratios.get((model, content)) or self._new_ratio(model, content)
        output = int((self._outputs.get((model, key_id)) or self._output(model)).p95) + 1
        return int(input_bytes * ratio.p95) + 1, cap if cap < output else output

    def learn(self, model: str, content: str, key_id: str, input_bytes: int, usage: Usage) -> None:
        """Take in a settled usage, or pass it over where much is known.

        `model` is the price's canonical name, `input_bytes` the call's.
        """
        self.learned += 1
        ratio, own = self._ratios.get((model, content)), self._outputs.get((model, key_id))
        if (
            self.learned % _ONE_IN
            and own is not None
            and own.seen >= _WELL_KNOWN
            and ratio is not None
            and ratio.seen >= _WELL_KNOWN
        ):
            return
        if input_bytes > 0:
            (ratio or self._new_ratio(model, content)).take(usage.input_tokens / input_bytes)
        if own is None:
            own = _keep(self._outputs, (model, key_id), self._output(model).state()._replace(seen=0), _OUTPUT_MAX)
        own.take(usage.output_tokens)
        if key_id and own.seen % _TELLS_MODEL == 1:
            self._output(model).take(usage.output_tokens)

    def observations(self, model: str, content: str, key_id: str) -> tuple[int, int]:
        """How many usages stand behind the two figures; 0 = they are priors."""
        ratio = self._ratios.get((model, content))
        output = self._outputs.get((model, key_id)) or self._outputs.get((model, ""))
        return ratio.seen if ratio is not None else 0, output.seen if output is not None else 0

    # ---- over a restart

    def state(self) -> Learned:
        """What was learned; priors are not repeated."""
        return Learned(ratios=_told(self._ratios), outputs=_told(self._outputs))

    def restore(self, state: Learned) -> None:
        """Replace what was learned. Rows beyond the bound are dropped, the first ones first."""
        self._ratios, self._outputs = {}, {}
        for model, content, quantiles in state.ratios:
            _keep(self._ratios, (model, content), quantiles, _RATIO_MAX)
        for model, key_id, quantiles in state.outputs:
            _keep(self._outputs, (model, key_id), quantiles, _OUTPUT_MAX)

    # ---- inside

    def _new_ratio(self, model: str, content: str) -> Sketch:
        return _keep(self._ratios, (model, content), self._prior(model, content), _RATIO_MAX)

    def _output(self, model: str) -> Sketch:
        return self._outputs.get((model, "")) or _keep(self._outputs, (model, ""), PRIOR_OUTPUT, _OUTPUT_MAX)

    def _prior(self, model: str, content: str) -> Quantiles:
        for family in self._priors:
            if any(fnmatchcase(model, pattern) for pattern in family.models):
                found = family.ratios.get(content)
                return around(*found) if found is not None else PRIOR_RATIO
        return PRIOR_RATIO


def _keep(rows: Rows, name: Name, start: Quantiles, most: float) -> Sketch:
    if len(rows) >= _ROWS_MAX and name not in rows:
        del rows[next(iter(rows))]
    made = rows[name] = Sketch(start, most)
    return made


def _told(rows: Mapping[Name, Sketch]) -> tuple[tuple[str, str, Quantiles], ...]:
    return tuple((*name, sketch.state()) for name, sketch in rows.items() if sketch.seen)
