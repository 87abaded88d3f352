"""Serving the page: on this machine alone, or where others can reach it to those who have its token."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported: no word to anybody
os.environ["HF_HUB_OFFLINE"] = "1"

import gradio as gr
import torch
import uvicorn
from fastapi import FastAPI

from likely.studio import guard, look
from likely.studio.app import build
from likely.studio.guard import LIMITS, Guard


def application(roots: list[Path], host: str, token: str | None, names: Iterable[str] = ()) -> Guard:
    """The whole as an ASGI application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = build(roots).queue(max_size=LIMITS.waiting, default_concurrency_limit=4, api_open=False)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        allowed_paths=[],
        show_error=False,
        max_file_size=LIMITS.upload,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        pwa=False,
        mcp_server=False,
        theme=look.theme(),
        css=look.css(),
        head=look.head(),
    )
    return Guard(app, host, token, names)


def serve(roots: list[Path], host: str, port: int, ready: Callable[[str], Any], names: Iterable[str] = ()) -> None:
    """Serve until interrupted; `ready` is called with the address once it is up.

    A host that others can reach takes a token, which is made here and is in that address. Raises `ValueError` where the
    port is taken or the host is none of this machine.
    """
    torch.set_num_threads(1)
    token = None if guard.loopback(host) else secrets.token_urlsafe(32)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ValueError(
            f"host {host} and port {port} cannot be had: {error.strerror}; choose another --port"
        ) from None
    with listening, tempfile.TemporaryDirectory(prefix="likely-studio-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # ours alone, and gone afterwards
        server = uvicorn.Server(
            uvicorn.Config(
                application(roots, host, token, names),
                log_level="warning",
                timeout_keep_alive=30,
                timeout_graceful_shutdown=2,
                limit_concurrency=100,
                server_header=False,
                ws="none",
            )
        )
        shown = f"[{host}]" if ":" in host else socket.gethostname() if host == "0.0.0.0" else host
        address = f"http://{shown}:{listening.getsockname()[1]}/" + ("" if token is None else f"?token={token}")

        def tell() -> None:
            while not server.started and not server.should_exit:
                threading.Event().wait(0.05)
            if server.started:
                ready(address)

        threading.Thread(target=tell, daemon=True).start()
        server.run(sockets=[listening])
