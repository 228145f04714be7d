"""Average drop and increase in confidence: the score of what the map keeps of the picture.

A. Chattopadhay, A. Sarkar, P. Howlader, V. N. Balasubramanian: Grad-CAM++, WACV 2018, section 4.1.
"""

from torch import Tensor


def kept_picture(pixels: Tensor, values: Tensor) -> Tensor:
    """(C, H, W): the picture times its map (H, W), which is first stretched to 0 ... 1.

    The paper's maps have no negative values. In others these speak against the class and become 0 before:
    stretched as they are, 0 would come to lie in the middle and such maps keep half of everything. A map that
    is the same everywhere singles nothing out and keeps nothing: the result is black.
    """
    values = values.clamp(min=0)
    low, high = values.min(), values.max()
    share = (values - low) / (high - low) if bool(high > low) else values * 0
    return pixels * share.to(pixels)


def drop(whole: float, kept: float) -> float | None:
    """max(0, Y - O) / Y, the share of the confidence Y in the whole picture that the kept part O loses.

    0 (nothing lost) to 1; its mean over pictures is the paper's average drop, there in percent. None where
    the whole picture has no positive confidence that could drop.
    """
    return max(0.0, whole - kept) / whole if whole > 0 else None


def confidence_increase(whole: float, kept: float) -> float:
    """1 where the kept part alone has a higher confidence than the whole picture, else 0."""
    return float(kept > whole)
