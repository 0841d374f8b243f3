"""One line a record on standard error: time, process, level, logger, text. Nothing that could be secret is logged."""

import logging
import sys
import time


class _Line(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)sZ {process} %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's own name
        """Where it failed, never with what: an exception's text can quote a key or a prompt."""
        trace = ei[2] if isinstance(ei, tuple) else None
        places = []
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{code.co_filename.rsplit('/', 2)[-1]}:{trace.tb_lineno}")
            trace = trace.tb_next
        kind = ei[0].__name__ if isinstance(ei, tuple) and ei[0] is not None else "error"
        return f"  {kind} at {' > '.join(places)}"


def set_up_logs(process: str, level: int = logging.INFO) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
