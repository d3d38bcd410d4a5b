"""The area under the ROC curve, by ranks."""

from __future__ import annotations

import torch


def auc(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """How likely a random positive has a higher score than a random negative; a tie counts half.

    It is the Mann-Whitney statistic: with R the sum of the positives' ranks among all scores
    (equal scores share the mean of their ranks), AUC = (R - p(p+1)/2) / (p n).

    Args:
        scores: [n], of any float dtype; higher means rather positive. Without NaN.
        labels: [n], 0 or 1.

    Returns:
        From 0 to 1; NaN where there are only positives or only negatives.
    """
    positive = labels > 0.5
    positives = int(positive.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, group, sizes = scores.unique(return_inverse=True, return_counts=True)
    last_rank = sizes.cumsum(0).double()
    mean_rank = last_rank - (sizes.double() - 1) / 2
    rank_sum = float(mean_rank[group[positive]].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
