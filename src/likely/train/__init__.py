"""Training: `fit` and `resume`, and models as files: `save` and `load_model`."""

from likely.config.train import TrainConfig
from likely.train.checkpoint import load_model, save
from likely.train.learners import NotFinite
from likely.train.ledger import Ledger
from likely.train.loop import FitResult, fit, resume

__all__ = ["FitResult", "Ledger", "NotFinite", "TrainConfig", "fit", "load_model", "resume", "save"]
