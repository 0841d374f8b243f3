"""File descriptors: how many callers this process can hold and still reach providers and write its journal."""

import resource

_LEAST_RESERVE = 256  # the journal, the link, listeners, and some connections to providers


def most_connections(wanted: int) -> int:
    """Raise the soft limit as far as it goes; the client connections that fit, at most `wanted`.

    An eighth is kept back: whoever opens connections until none is left must not take the last descriptor of all.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, hard - max(_LEAST_RESERVE, hard // 8)))
