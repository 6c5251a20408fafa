"""Every measure's formula once more, in plain numpy on the rows themselves: what the library must say of a small run.

Nothing here is shared with the measures: no moments, no batches, no blocks, no routes. ``x`` and ``y`` are ``(n, d)``
float64 rows as they were stored in float32, ``sample`` is the ``(n,)`` sample of each, with equally many rows a sample, and
``first`` marks the rows of the first fold. All singular values of the rows must lie above the floor of float32.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, stats
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]
ROUNDING = 0.4247 * 2.0**-24
"""Root mean square of the relative rounding error of float32."""


def of_one_run(x: Array, sample: NDArray[np.int64]) -> dict[str, float]:
    """Measure → its value, for every measure of one run."""
    z, (n, d) = x - x.mean(0), x.shape
    return {
        **_of_spectrum(linalg.svdvals(z), linalg.svdvals(x), n, d, float(np.linalg.norm(x))),
        **_of_scatter(z, sample),
        **_of_samples(x, sample),
        **_of_neighbours(x, sample),
        **_of_lengths(x),
        "parallel-analysis": leading_beyond_chance(x, sample),
    }


def _entropy(p: Array) -> float:
    """-Σ p ln p."""
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def _first_reaching(p: Array, share: float) -> float:
    """How many of the shares, the largest first, reach a share together."""
    return float(np.argmax(np.cumsum(p) >= share) + 1)


def _of_spectrum(s: Array, uncentred: Array, n: int, d: int, norm: float) -> dict[str, float]:
    variances = s**2
    p, sigma, raw = variances / variances.sum(), s / s.sum(), uncentred / uncentred.sum()
    floor = ROUNDING * norm * (d**-0.5 + n**-0.5)
    participation = 1 / (p**2).sum()
    sticks = np.array([sum(1 / j for j in range(i, d + 1)) / d for i in range(1, d + 1)])
    found = {
        "roy-vetterli": np.exp(_entropy(sigma)),
        "rankme": np.exp(_entropy(raw + 1e-7)),
        "pt-peft-pooled": 100 * _first_reaching(raw, 0.9) / d,
        "below-dtype-floor": (s < floor).sum(),
        "condition": s[0] / s[-1],
        "numerical-rank": d,
        "spectral-gap": 1 + np.argmax(s[:-1] / s[1:]),
        "broken-stick": np.argmin(p > sticks),
        "kaiser": (variances > variances.mean()).sum(),
        "participation-ratio-naive": participation,
        "isoscore": (participation - 1) / (d - 1),
        "renyi-1": _entropy(p),
        "renyi-2": np.log(participation),
        "hill-0": d,
        **dict.fromkeys(("entropy-rank", "hill-1"), np.exp(_entropy(p))),
        "hill-2": participation,
        **dict.fromkeys(("stable-rank", "nesum", "hill-inf"), 1 / p[0]),
        **{f"energy-{share}": _first_reaching(p, share / 100) for share in (90, 95, 99)},
        **_of_noise(s, n - 1, d),
    }
    for name, ranks, weights in (
        ("alpha-req", np.arange(4, d + 1), 1 / np.arange(4, d + 1)),
        ("power-law-11-100", np.arange(11, d + 1), np.ones(d - 10)),
    ):
        u, v = np.log(ranks), np.log(variances[ranks - 1])
        slope, height = np.polyfit(u, v, 1, w=np.sqrt(weights))
        left, spread = v - slope * u - height, v - np.average(v, weights=weights)
        found |= {name: -slope, f"{name}-r2": 1 - (weights * left**2).sum() / (weights * spread**2).sum()}
    return found


def _of_noise(s: Array, n: int, d: int) -> dict[str, float]:
    """Values above what noise with the same median would have; the median of the law by its published approximation."""
    beta, larger = min(n, d) / max(n, d), max(n, d)
    known = np.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + np.sqrt(beta**2 + 14 * beta + 1)))
    unknown = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    noise = np.median(s) * unknown / known / np.sqrt(larger)
    return {
        "gavish-donoho": (s > unknown * np.median(s)).sum(),
        "mp-reference": (s > noise * np.sqrt(larger) * (1 + np.sqrt(beta))).sum(),
    }


def _of_scatter(z: Array, sample: NDArray[np.int64]) -> dict[str, float]:
    """The participation ratio from products of different rows, and of rows of different samples."""
    n, d = z.shape
    gram = z @ z.T
    trace, square, fourth = np.trace(gram), (gram**2).sum(), (np.diag(gram) ** 2).sum()
    t1, t2, q = trace / (n - 1), square / (n - 1) ** 2, fourth / (n - 1)
    unbiased = (2 * t2 + (n * n - 3 * n + 1) * t1**2 - n * q) / ((n - 1) * (n - 2) * t2 + t1**2 - n * q)
    traces = np.array([np.trace(gram[np.ix_(sample == c, sample == c)]) for c in np.unique(sample)])
    apart = gram[sample[:, None] != sample]
    return {
        "participation-ratio": unbiased,
        "isoscore-unbiased": (unbiased - 1) / (d - 1),
        "participation-ratio-clustered": (trace**2 - (traces**2).sum()) / (apart**2).sum(),
    }


def _of_samples(x: Array, sample: NDArray[np.int64]) -> dict[str, float]:
    """What is computed sample by sample: spectra, angles between steps, and scatter within and between."""
    d, angles, entropies, curves, within, means = x.shape[1], [], [], [], [], []
    for c in np.unique(sample):
        rows = x[sample == c]
        steps = np.diff(rows, axis=0)
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)
        angles += [np.degrees(np.arccos(a @ b)) for a, b in pairwise(steps)]
        own = rows - rows.mean(0)
        p = linalg.svdvals(own / np.linalg.norm(own, axis=1, keepdims=True)) ** 2
        entropies.append(_entropy(p / p.sum()))
        s = linalg.svdvals(rows)
        curves.append(s / s.sum())
        within.append(own)
        means.append(rows.mean(0))
    inside = np.concatenate(within)
    noise = inside.T @ inside / (len(x) - len(means))
    noise += 1e-4 * np.trace(noise) / d * np.eye(d)
    values = linalg.eigvalsh(np.cov(np.array(means).T), noise)
    r = min(len(rows), d)
    ratio = 100 * _first_reaching(np.mean(curves, axis=0), 0.9) / r
    return {
        "curvature": np.mean(angles),
        "diff-erank": np.exp(np.mean(entropies)),
        "lidar": np.exp(_entropy(values / values.sum() + 1e-7)),
        **dict.fromkeys(("pt-peft", "pt-peft-pad", "pt-peft-truncate"), ratio),
        "pt-peft-ratio": np.mean([100 * _first_reaching(curve, 0.9) / r for curve in curves]),
    }


def _of_neighbours(x: Array, sample: NDArray[np.int64]) -> dict[str, float]:
    """Intrinsic dimensions from the distances of each row to its nearest rows of other samples."""
    apart = cdist(x, x)
    nearest = np.sort(
        [
            [row[sample == c].min() for c in np.unique(sample) if c != own]
            for row, own in zip(apart, sample, strict=True)
        ]
    )
    logs = np.log(nearest[:, 3] / nearest[:, 1])

    def score(d: float) -> float:
        return float(len(x) / d + (logs / (1 - np.exp(-d * logs))).sum() - 3 * logs.sum())

    return {
        "two-nn": (len(x) - 1) / np.log(nearest[:, 1] / nearest[:, 0]).sum(),
        "levina-bickel": 1 / np.log(nearest[:, 19:20] / nearest[:, :19]).mean(),
        "gride": optimize.brentq(score, 1e-3, 1e3, xtol=1e-12, rtol=1e-13),
        "duplicate-rows": 1 - len(np.unique(x, axis=0)) / len(x),
    }


def _of_lengths(x: Array) -> dict[str, float]:
    """What rows of length one, the mean row and massive rows are."""
    n, d = x.shape
    spread = ((x - x.mean(0)) ** 2).sum() / (n - 1)
    lengths, sizes = np.linalg.norm(x, axis=1), np.sqrt((x**2).mean(0))
    unit = x / lengths[:, None]
    chance = n * (n - 1) / d
    u = linalg.svd(x, full_matrices=False)[0]
    standard = (x - x.mean(0)) / x.std(0)
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    return {
        "anisotropy": ((unit.sum(0) ** 2).sum() - n) / (n * (n - 1)),
        "anisotropy-standardised": ((standard.sum(0) ** 2).sum() - n) / (n * (n - 1)),
        "self-cluster": (((unit @ unit.T) ** 2).sum() - n - chance) / (n * n - n - chance),
        "coherence": n / d * (u**2).sum(1).max(),
        "mean-share": (x.mean(0) ** 2).sum() / ((x.mean(0) ** 2).sum() + spread),
        "sink-rows": (lengths > 10 * np.median(lengths)).sum(),
        "massive-dimensions": (sizes > 10 * np.median(sizes)).sum(),
    }


def leading_beyond_chance(x: Array, sample: NDArray[np.int64], draws: int = 200) -> float:
    """Leading components above the 95 % quantile of those with every column permuted within each sample."""
    random = np.random.default_rng(0)

    def permuted() -> Array:
        order = np.lexsort((random.random(x.shape).T, np.broadcast_to(sample, x.shape[::-1]))).T
        return np.take_along_axis(x, order, 0)

    null = np.quantile([linalg.svdvals(z - z.mean(0)) for z in (permuted() for _ in range(draws))], 0.95, axis=0)
    return float(np.argmin(linalg.svdvals(x - x.mean(0)) > null))


def of_two_runs(x: Array, y: Array, sample: NDArray[np.int64], first: NDArray[np.bool_]) -> dict[str, float]:
    """Comparison → its value, for every comparison; ``x`` is the reference. Leading subspaces have an eighth of the width."""
    a, b = x - x.mean(0), y - y.mean(0)
    halves = [_of_halves(x[fit], y[fit], x[~fit], y[~fit], _leading(a)) for fit in (first, ~first)]
    r2 = np.mean([each for _, each in halves], axis=0)
    return {
        **_of_canonical(a, b),
        **_of_kernels(x, y, sample),
        **_of_basis(x, y),
        **_of_kinds(x, y, sample),
        **_of_shapes(a, b),
        **_of_two_spectra(linalg.svdvals(a), linalg.svdvals(b)),
        **{name: float(np.mean([half[name] for half, _ in halves])) for name in halves[0][0]},
        "recoverability-1": r2[0],
        "recoverable-components": (r2 > 0.5).sum(),
    }


def _leading(z: Array, k: int | None = None) -> Array:
    """``(d, k)`` principal directions of centred rows, the leading one first."""
    return linalg.svd(z, full_matrices=False)[2].T[:, :k]


def _of_canonical(a: Array, b: Array) -> dict[str, float]:
    def correlations(a: Array, b: Array) -> tuple[Array, Array]:
        qa, qb = linalg.qr(a, mode="economic")[0], linalg.qr(b, mode="economic")[0]
        u, rho, _ = linalg.svd(qa.T @ qb, full_matrices=False)
        return rho, qa @ u

    def kept(z: Array) -> Array:
        u, s, _ = linalg.svd(z, full_matrices=False)
        return u[:, : int(_first_reaching(s**2 / (s**2).sum(), 0.99))]

    (rho, variates), n, d = correlations(a, b), len(a), a.shape[1]
    weights, null = np.abs(variates.T @ a).sum(1), d / (n - 1)
    return {
        "cca": (rho**2).mean(),
        "cca-adjusted": ((rho**2).mean() - null) / (1 - null),
        "cca-mean": rho.mean(),
        "cca-angle": np.arccos(rho.mean()),
        "svcca": correlations(kept(a), kept(b))[0].mean(),
        "pwcca": (weights * rho).sum() / weights.sum(),
    }


def _of_kernels(x: Array, y: Array, sample: NDArray[np.int64]) -> dict[str, float]:
    apart = sample[:, None] != sample

    def residual(kernel: Array) -> Array:
        # The additive part u_i + u_j that leaves each row without a sum over other samples
        part = linalg.solve(apart + np.diag(apart.sum(1)), np.where(apart, kernel, 0).sum(1))
        return (kernel - part[:, None] - part)[apart]

    def gaussian(z: Array) -> Array:
        squares = cdist(z, z, "sqeuclidean")
        pairs = np.sort(squares[np.triu_indices(len(z), 1)])
        return np.exp(-squares / (2 * pairs[(len(pairs) - 1) // 2]))

    def alignment(k: Array, m: Array) -> float:
        return float(k.ravel() @ m.ravel() / (np.linalg.norm(k) * np.linalg.norm(m)))

    def neighbours(z: Array) -> NDArray[np.int64]:
        cosine = 1 - cdist(z, z, "cosine")
        return np.argsort(-np.where(apart, cosine, -np.inf), axis=1)[:, :10]

    a, b = x - x.mean(0), y - y.mean(0)
    shared = [len(np.intersect1d(*near)) for near in zip(neighbours(x), neighbours(y), strict=True)]
    means = [np.array([z[sample == c].mean(0) for c in np.unique(sample)]) for z in (x, y)]
    pairs = np.triu_indices(len(means[0]), 1)
    return {
        "cka": alignment(residual(x @ x.T), residual(y @ y.T)),
        "cka-biased": alignment(a @ a.T, b @ b.T),
        "kernel-cka": alignment(residual(gaussian(x)), residual(gaussian(y))),
        "mutual-neighbours": np.mean(shared) / 10,
        "rsa": stats.spearmanr(*(cdist(m, m, "sqeuclidean")[pairs] for m in means)).statistic,
    }


def _of_basis(x: Array, y: Array) -> dict[str, float]:
    """Drift and distances of two clouds in one basis."""
    (n, d), k = x.shape, x.shape[1] // 8
    moved, s0, s1 = y - x, np.cov(x.T), np.cov(y.T)
    basis, angles = (
        _leading(x - x.mean(0), k),
        linalg.subspace_angles(_leading(x - x.mean(0), k), _leading(y - y.mean(0), k)),
    )
    spread = linalg.eigvalsh(np.cov(moved.T, bias=True))
    root = linalg.sqrtm(s0).real
    bures = np.trace(s0) + np.trace(s1) - 2 * np.trace(linalg.sqrtm(root @ s1 @ root).real)
    scatter = s0 * (n - 1)
    ridge = max(ROUNDING**2 * (x**2).sum() / d, d * 2.0**-52 * np.linalg.norm(scatter)) / (n - 1) * np.eye(d)
    return {
        "drift": (moved**2).sum(1).mean() / np.trace(s0),
        "drift-mean-share": (moved.mean(0) ** 2).sum() / (moved**2).sum(1).mean(),
        "drift-inside": ((moved @ basis) ** 2).sum() / (moved**2).sum(),
        "drift-rank": np.exp(_entropy(spread / spread.sum())),
        "drift-1": ((moved @ basis[:, 0]) ** 2).mean() / (basis[:, 0] @ s0 @ basis[:, 0]),
        "drift-share-1": spread[-1] / spread.sum(),
        "bures": bures,
        "frechet": bures + (moved.mean(0) ** 2).sum(),
        "affine-distance": np.linalg.norm(np.log(linalg.eigvalsh(s1 + ridge, s0 + ridge))),
        "overlap": (np.cos(angles) ** 2).mean(),
        "subspace-distance": np.linalg.norm(angles),
    }


def _of_kinds(x: Array, y: Array, sample: NDArray[np.int64]) -> dict[str, float]:
    """How far apart the means over samples lie: every product is of two different samples."""
    a, b = (np.array([z[sample == c].mean(0) for c in np.unique(sample)]) for z in (x, y))
    n = len(a)

    def inner(p: Array, q: Array) -> float:
        return float((p @ q.T)[~np.eye(n, dtype=bool)].mean())

    apart, within = inner(b - a, b - a), (np.cov(a.T).trace() + np.cov(b.T).trace()) / 2
    return {
        "modality-gap": np.sign(apart) * np.sqrt(abs(apart) / (np.array([a, b]) ** 2).sum(-1).mean()),
        "modality-cosine": inner(a, b) / np.sqrt(inner(a, a) * inner(b, b)),
        "modality-share": apart / 4 / (apart / 4 + within),
    }


def _of_shapes(a: Array, b: Array) -> dict[str, float]:
    nuclear, sizes = linalg.svdvals(a.T @ b).sum(), (np.linalg.norm(a), np.linalg.norm(b))
    similarity, turned = nuclear / np.prod(sizes), linalg.orthogonal_procrustes(b, a)[0]
    apart = np.linalg.norm(a - b) / sizes[0]
    return {
        "procrustes": similarity,
        "procrustes-angle": np.arccos(similarity),
        "procrustes-disparity": 1 - similarity**2,
        "identity-distance": apart,
        "rotation-gap": apart - np.linalg.norm(a - b @ turned) / sizes[0],
    }


def _of_two_spectra(s: Array, t: Array) -> dict[str, float]:
    p, q = s**2 / (s**2).sum(), t**2 / (t**2).sum()
    middle, logs = (p + q) / 2, np.log(p) - np.log(q)
    return {
        "log-wasserstein": np.abs(logs).mean(),
        "log-wasserstein-2": np.sqrt((logs**2).mean()),
        "atom-wasserstein": np.abs(p - q).mean(),
        "spectrum-kl": (q * np.log(q / p)).sum(),
        "spectrum-js": ((p * np.log(p / middle)).sum() + (q * np.log(q / middle)).sum()) / 2,
        "cumulative-distance": np.abs(np.cumsum(s / s.sum()) - np.cumsum(t / t.sum())).max(),
    }


def _of_halves(x: Array, y: Array, x_held: Array, y_held: Array, basis: Array) -> tuple[dict[str, float], Array]:
    """What is fitted on one fold and evaluated on the other, and the ``(d,)`` R² of the base's score along each direction."""
    a, b, a_held, b_held = (z - z.mean(0) for z in (x, y, x_held, y_held))
    with_one = np.column_stack([np.ones(len(y)), y])
    missed = x_held - np.column_stack([np.ones(len(y_held)), y_held]) @ linalg.lstsq(with_one, x)[0]
    u, _, vh = linalg.svd(a.T @ b)
    shares = [((z @ _leading(a)) ** 2).sum(0) / (z**2).sum() for z in (b_held, a_held)]
    found = {
        "recoverability": 1 - (missed**2).sum() / (a_held**2).sum(),
        "procrustes-held-out": np.trace((u @ vh).T @ a_held.T @ b_held)
        / (np.linalg.norm(a_held) * np.linalg.norm(b_held)),
        "variance-captured": shares[0][: x.shape[1] // 8].sum(),
        "usage-entropy": np.exp(_entropy(shares[0])),
        "usage-1": shares[0][0],
        "relative-usage-1": shares[0][0] / shares[1][0],
    }
    return found, 1 - ((missed @ basis) ** 2).sum(0) / ((a_held @ basis) ** 2).sum(0)
