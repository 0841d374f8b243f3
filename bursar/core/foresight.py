"""What one call will probably use and cost, told ahead: its middle, its high side and its ceiling."""

import msgspec

from bursar.core.calls import Call, Ceiling
from bursar.core.ceiling import likely_pico
from bursar.core.estimate import Estimate
from bursar.core.prices import Price


class Foresight(msgspec.Struct, frozen=True, kw_only=True):
    """(expected, high, ceiling), in that order never less, of tokens and of pico-USD.

    `seen`: how many usages stand behind the figures of input and output; 0 = they are priors.
    """

    input: tuple[int, int, int]
    output: tuple[int, int, int]
    pico: tuple[int, int, int]
    seen: tuple[int, int]


def foresee(call: Call, price: Price, top: Ceiling, estimate: Estimate, key_id: str) -> Foresight:
    """`top`: as the call would be held."""
    named = price.model, call.content, key_id
    tokens_in, tokens_out = estimate.high(*named, call.input_bytes, top.output_tokens // max(call.n, 1))
    tokens_in = min(max(tokens_in, top.expected_input), top.input_tokens)
    tokens_out = min(max(tokens_out * call.n, top.expected_output), top.output_tokens)
    pico = min(max(likely_pico(price, tokens_in, tokens_out), top.expected_pico), top.pico)
    return Foresight(
        input=(top.expected_input, tokens_in, top.input_tokens),
        output=(top.expected_output, tokens_out, top.output_tokens),
        pico=(top.expected_pico, pico, top.pico),
        seen=estimate.observations(*named),
    )
