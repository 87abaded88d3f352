"""Data: names, files, folders, tables and arrays become `Data`, splits of raw values in a space."""

from likely.config.data import DataConfig
from likely.data.batches import batch_indices
from likely.data.dataset import Data, Split, from_arrays
from likely.data.door import load
from likely.data.hub import get
from likely.data.named import list_sets

__all__ = ["Data", "DataConfig", "Split", "batch_indices", "from_arrays", "get", "list_sets", "load"]
