"""Joints p(x, y) of inputs and labels, by either factorisation.

`class_conditional`: p(y) p(x given y), a density for every class. `hybrid`: p(y given x) p(x), a classifier that reads
the features of an invertible density (`head` is the classifier).
"""

from __future__ import annotations

from likely.families.joint.class_conditional import TINY, ClassConditional, model
from likely.families.joint.head import Head
from likely.families.joint.hybrid import Hybrid

__all__ = ["TINY", "ClassConditional", "Head", "Hybrid", "model"]
