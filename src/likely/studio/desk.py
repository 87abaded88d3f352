"""Where questions are worked on: one at a time, stoppable by whoever asked, every mistake told in a sentence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr

from likely.studio import pieces
from likely.studio.errors import Halted, sentence
from likely.studio.shelf import Shelf, Told

QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
"""How events that ask a model stand in the queue: one after the other."""


@dataclass
class Desk:
    """The studio's models and the one who works on them.

    `model` is the page's choice of a run, `load` the event of its opening, `picture` what the tab Ask is about: pixels,
    turn, blur, negative, class.
    """

    shelf: Shelf
    model: Any = None
    load: Any = None
    picture: Any = ()

    def __post_init__(self) -> None:
        self._working: str | None = None
        self._halt = threading.Event()

    @contextmanager
    def work(self, session: str | None, show: Callable[..., Any] | None = None) -> Iterator[Told]:
        """Hold the models; what is given tells progress to `show`, and raises `Halted` once the session stops it."""
        with self.shelf.busy():
            self._halt.clear()
            self._working = session

            def told(share: float, what: str) -> None:
                if self._halt.is_set():
                    raise Halted
                if show is not None:
                    show(min(max(share, 0.0), 1.0), desc=what)

            try:
                yield told
            finally:
                self._working = None

    def stop(self, request: gr.Request) -> None:
        """Stop what this session's last question does."""
        if request.session_hash is not None and request.session_hash == self._working:
            self._halt.set()

    def asks(self, function: Callable[..., Any], outputs: int = 1, problem: int = 0) -> Callable[..., Any]:
        """`function(loaded, told, *inputs)` as the handler of an event whose first input is a run's name.

        It answers with `outputs` values; a mistake is shown in the place of number `problem`, and the others stay.
        """

        def handler(request: gr.Request, name: str, progress: Any = gr.Progress(), *inputs: Any) -> Any:  # noqa: B008
            try:
                with self.work(request.session_hash, progress) as told:
                    return function(self.shelf.take(name), told, *inputs)
            except Exception as error:
                return self.sorry(error, outputs, problem)

        return handler

    @staticmethod
    def sorry(error: Exception, outputs: int = 1, problem: int = 0) -> Any:
        """The mistake as a sentence in one place, nothing new in the others."""
        text = pieces.problem(sentence(error))
        answers = [text if place == problem else gr.skip() for place in range(outputs)]
        return answers[0] if outputs == 1 else tuple(answers)
