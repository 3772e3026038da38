"""Localisation: whether a map lies on the object, where its mask is known. Higher is better.

    pointing        share of maps whose highest point is on the object
    energy          share of the map's sum that is on the object
    iou             intersection over union at the map's best threshold

`energy_inside` is also asked of a planted mark (`mark_energy`).

References:
    Zhang et al. 2018, "Top-down Neural Attention by Excitation Backprop", arXiv:1608.00507 (pointing game).
    Wang et al. 2020, "Score-CAM", arXiv:1910.01279 (energy-based pointing game).
"""

import numpy as np

LOCALISATION = ("pointing", "energy", "iou")


def localisation_scores(maps: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Computes pointing game, energy inside the mask and IoU at the best threshold.

    Args:
        maps: Heat maps [N, H, W].
        masks: bool [N, H, W].

    Returns:
        Score → float64 [N], 0..1.
    """
    return {
        "pointing": pointing_game(maps, masks),
        "energy": energy_inside(maps, masks),
        "iou": best_iou(maps, masks),
    }


def pointing_game(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns 1 where the highest point of a map is on the object (Zhang 2018), the mean over equal highest points."""
    highest = (maps == maps.max(axis=(1, 2), keepdims=True)).reshape(len(maps), -1)
    return (highest & masks.reshape(len(maps), -1)).sum(axis=1) / highest.sum(axis=1)


def energy_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns the share of a map's sum that is inside the mask (Wang 2020).

    A constant map has the mask's share of the image; an image without a mask has no score (NaN).
    """
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    inside = (maps * masks).sum(axis=(1, 2), dtype=np.float64)
    share = np.divide(inside, total, out=masks.mean(axis=(1, 2), dtype=np.float64), where=total > 0)
    return np.where(masks.any(axis=(1, 2)), share, np.nan)


def best_iou(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of {map ≥ t} with the mask at the threshold that makes it largest."""
    values = maps.reshape(len(maps), -1)
    order = np.argsort(-values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=1)
    hits = np.cumsum(np.take_along_axis(masks.reshape(len(maps), -1), order, axis=1), axis=1)
    taken = np.arange(1, values.shape[1] + 1)
    union = taken + hits[:, -1:] - hits
    # Pixels of equal value fall on the same side of any threshold.
    possible = np.concatenate([ranked[:, 1:] < ranked[:, :-1], np.ones((len(maps), 1), bool)], axis=1)
    return np.where(possible, hits / union, 0).max(axis=1)
