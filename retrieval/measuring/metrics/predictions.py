"""What a model's classifier says, against what the full encoder's says."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.measuring.metrics.answers import Answers


def predictions(answers: Answers) -> dict[str, NDArray[Any]]:
    """`equal_predictions`, and the `divergence` of the predicted distributions in nats."""
    logs_SQC = answers.log_probabilities
    if logs_SQC is None:
        return {}
    return {
        "equal_predictions": logs_SQC.argmax(axis=2) == logs_SQC[0].argmax(axis=1),
        "divergence": np.stack([divergence(logs_SQC[0], logs_QC) for logs_QC in logs_SQC]),
    }


def divergence(log_p_QC: NDArray[np.floating], log_q_QC: NDArray[np.floating]) -> NDArray[np.float64]:
    """The Kullback-Leibler divergence of q from p in nats, Q: what is lost when q stands for p."""
    log_p_QC = log_p_QC.astype(np.float64)
    return (np.exp(log_p_QC) * (log_p_QC - log_q_QC)).sum(axis=1)
