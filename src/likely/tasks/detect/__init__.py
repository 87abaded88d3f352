"""Is this like the training data? Scores that work with any density, p-values, and how good each score is.

`detect` judges rows, `compare` measures every score against sets from elsewhere, `doctor` says whether a likelihood is
mostly complexity. No score finds strangers of every kind: what is as likely and as complex as the training data (a
photographic negative) passes all of them.
"""

from likely.tasks.detect.comparison import Comparison, compare
from likely.tasks.detect.detector import Detections, Diagnosis, detect, doctor
from likely.tasks.detect.scores import METHODS

__all__ = ["METHODS", "Comparison", "Detections", "Diagnosis", "compare", "detect", "doctor"]
