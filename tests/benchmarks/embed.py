"""t-SNE beside scikit-learn's own: time and divergence on the same principal components.

`python -m tests.benchmarks.embed --points 2000 --rounds 3` for the default engine, `--points 10000` with
`--rounds 1` for openTSNE; CPU time of one thread. Points are features of pictures: blobs with noise, or
`--index INDEX` for those of an index.
"""

import argparse
import time

import numpy as np
import torch
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

import vizkit
from tests.benchmarks.common import machine, table
from vizkit.embedding.affinities import divergence
from vizkit.embedding.reduction import COMPONENTS, LARGE, components, has, ready, reduce


def features(count: int, index: str | None) -> np.ndarray:
    """(count, C) features."""
    if index is not None:
        rows = np.asarray(vizkit.Index(index).features())
        return rows[np.arange(count) % len(rows)] + np.random.default_rng(0).normal(
            0, 0.01, (count, rows.shape[1])
        )
    random = np.random.default_rng(0)
    centres = random.gamma(0.5, 1.0, (40, 1280))
    return np.maximum(0, centres[np.arange(count) % 40] + random.normal(0, 0.6, (count, 1280)))


def timed(run, rounds: int) -> tuple[float, object]:  # type: ignore[no-untyped-def]
    """The median of the CPU seconds, and the last result."""
    times, result = [], None
    for _ in range(rounds):
        begun = time.process_time()
        result = run()
        times.append(time.process_time() - begun)
    return float(np.median(times)), result


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--index")
    given = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # threads that wait would be counted
    print(machine())
    points = ready(features(given.points, given.index), "euclidean")
    start = components(points, COMPONENTS, 0)[0]

    def theirs() -> np.ndarray:
        model = TSNE(perplexity=30, init="pca", learning_rate="auto", random_state=0, n_jobs=1)
        return model.fit_transform(start.astype(np.float32))

    rows = []
    seconds, positions = timed(theirs, given.rounds)
    base = seconds
    kl = divergence(start, np.asarray(positions), 30)
    rows.append(["scikit-learn on PCA-50", f"{seconds:.1f}", "1.00", f"{kl:.3f}"])
    variants = [("sklearn", start, "the same components"), ("sklearn", points, f"{points.shape[1]} features")]
    if given.points >= LARGE:
        variants.clear()  # openTSNE is what is taken for so many
    if has("openTSNE"):
        variants.append(("opentsne", start, "the same components"))
    for engine, given_points, what in variants:
        seconds, found = timed(
            lambda e=engine, x=given_points: reduce(x, "tsne", perplexity=30, seed=0, engine=e), given.rounds
        )
        kl = found.told["kl_divergence"]  # type: ignore[attr-defined]
        name = f"vizkit, {engine}, from {what}, with the divergence"
        rows.append([name, f"{seconds:.1f}", f"{seconds / base:.2f}", f"{kl:.3f}"])
    print(f"\n{given.points} points, {given.rounds} round(s)\n")
    print(table(["", "CPU s", "ratio", "KL (same P)"], rows))


if __name__ == "__main__":
    main()
