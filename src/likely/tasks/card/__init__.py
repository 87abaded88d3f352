"""Cards that prove themselves: what a run is, from its ledger alone, and whether a card still says so."""

from likely.tasks.card.collect import ASKABLE, card
from likely.tasks.card.comparison import compare, comparison_page
from likely.tasks.card.files import read_card, write_card
from likely.tasks.card.html import html
from likely.tasks.card.markdown import markdown
from likely.tasks.card.report import Report
from likely.tasks.card.verification import verify

__all__ = [
    "ASKABLE",
    "Report",
    "card",
    "compare",
    "comparison_page",
    "html",
    "markdown",
    "read_card",
    "verify",
    "write_card",
]
