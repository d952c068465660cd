"""Fewer points for the screen, without losing what a reader looks for.

A rollout has thousands of engine steps and a screen about a thousand columns. The axis is cut
into equal buckets; of each bucket the first point and every series' lowest and highest are kept,
each with the point after it. So peaks and dips stay at their true place, and a step line leaves
them when the run did.
"""

from collections.abc import Sequence

from nemo_rl_efficientrollout.report.reading import Series


def keep_extremes(x: Sequence[float], series: Sequence[Sequence], buckets: int) -> list[int]:
    """Indices to draw, in order. `x` ascends; `series` share it and may hold None."""
    if len(x) <= buckets:
        return list(range(len(x)))
    kept = {0, len(x) - 1}
    for members in _buckets(x, buckets):
        kept.add(members[0])
        for values in series:
            known = [i for i in members if values[i] is not None]
            if known:
                for best in (min, max):
                    index = best(known, key=values.__getitem__)
                    kept |= {index, min(index + 1, len(x) - 1)}
    return sorted(kept)


def windowed_rate(
    x: Sequence[float], part: Sequence[float], whole: Sequence[float], windows: int
) -> tuple[list[float], Series]:
    """sum(part) / sum(whole) in equal windows of `x`, at the middle of each.

    Every point counts, so nothing is lost to thinning; a window with no `whole` has no rate.
    """
    centers: list[float] = []
    rates: Series = []
    if not x:
        return centers, rates
    width = (x[-1] - x[0]) / windows
    sums = [[0.0, 0.0] for _ in range(windows)]
    for members, total in zip(_buckets(x, windows, keep_empty=True), sums, strict=True):
        total[0] = sum(part[i] for i in members)
        total[1] = sum(whole[i] for i in members)
    for window, (hit, tried) in enumerate(sums):
        centers.append(x[0] + (window + 0.5) * width)
        rates.append(hit / tried if tried > 0 else None)
    return centers, rates


def _buckets(x: Sequence[float], count: int, keep_empty: bool = False) -> list[list[int]]:
    """Indices of `x` by equal intervals between its first and last value."""
    span = (x[-1] - x[0]) or 1.0
    buckets: list[list[int]] = [[] for _ in range(count)]
    for index, value in enumerate(x):
        buckets[min(int((value - x[0]) / span * count), count - 1)].append(index)
    return buckets if keep_empty else [bucket for bucket in buckets if bucket]
