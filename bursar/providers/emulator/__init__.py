"""The shipped fake provider: both wire formats, scripted per request, with a bill of its own.

``python -m bursar.providers.emulator --port N | --fd N --bill FILE`` runs it as a process. `read_bill` reads what it
charged. It shares nothing with the broker's own metering: the two are compared by tests.

Token rule: one output token is exactly 4 bytes of text (the last one may be cut); input tokens are the bytes of
messages, system prompt and tools divided by 4, rounded up, so never more than bytes.
"""

from bursar.providers.emulator.bill import Charge, digest, read_bill

__all__ = ["Charge", "digest", "read_bill"]
