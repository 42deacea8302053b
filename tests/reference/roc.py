"""Area under the ROC curve and recall at given false-positive rates, by scikit-learn, of scores with many ties.

    pip install scikit-learn && python3 tests/reference/roc.py

The numbers stand in `src/safety/guard/metrics.rs`; they are exact up to rounding of float64.
"""

import math

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

state = 12_345


def uniform():
    """The next number of a linear congruential sequence."""
    global state
    state = (state * 1_103_515_245 + 12_345) % (1 << 31)
    return state / (1 << 31)


scores, labels = [], []
for _ in range(600):
    is_unsafe = uniform() < 0.3
    score = math.sqrt(math.sqrt(uniform())) if is_unsafe else uniform() * uniform()
    scores.append(math.floor(score * 100) / 100)
    labels.append(is_unsafe)

false_positives, recall, _ = roc_curve(labels, scores, drop_intermediate=False)
print("auc", repr(roc_auc_score(labels, scores)), "unsafe", sum(labels))
for rate in [0.0, 0.01, 0.05, 0.2, 1.0]:
    print(rate, repr(float(np.max(recall[false_positives <= rate]))))
