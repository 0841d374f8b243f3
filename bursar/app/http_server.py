"""uvicorn as control's ports want it: quiet, without a lifespan, its signals left to the process."""

import uvicorn


def http_server(application: object) -> uvicorn.Server:
    config = uvicorn.Config(
        application,  # type: ignore[arg-type]  # ASGI, as uvicorn takes it
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=2,
        ws="none",
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # the vigil's task
    return server
