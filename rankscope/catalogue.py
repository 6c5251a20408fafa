"""The names of all measures, by the files that define them: known without torch, so that a wrong name is refused at once.

The records themselves are in :mod:`rankscope.registry`; a test holds the two equal. Names that plug-ins add are known from
the metadata of their packages (:mod:`rankscope.plugins`).
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from rankscope import plugins
from rankscope.errors import UnknownName, UsageError

FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "measures": {
        "anisotropy": ("anisotropy", "anisotropy-standardised"),
        "coherence": ("coherence",),
        "curvature": ("curvature",),
        "diff_erank": ("diff-erank",),
        "dtype_floor": ("below-dtype-floor", "condition"),
        "duplicates": ("duplicate-rows",),
        "effective_rank": ("roy-vetterli", "entropy-rank"),
        "elbow": ("spectral-gap", "broken-stick", "kaiser"),
        "energy": ("energy-90", "energy-95", "energy-99"),
        "gavish_donoho": ("gavish-donoho",),
        "gride": ("gride",),
        "hill": ("hill-0", "hill-1", "hill-2", "hill-inf"),
        "isoscore": ("isoscore", "isoscore-unbiased"),
        "levina_bickel": ("levina-bickel",),
        "lidar": ("lidar",),
        "marchenko_pastur": ("mp-reference",),
        "mean_share": ("mean-share",),
        "numerical_rank": ("numerical-rank",),
        "parallel_analysis": ("parallel-analysis",),
        "participation_ratio": (
            "participation-ratio",
            "participation-ratio-clustered",
            "participation-ratio-naive",
        ),
        "power_law": ("alpha-req", "alpha-req-r2", "power-law-11-100", "power-law-11-100-r2"),
        "pt_peft": ("pt-peft", "pt-peft-pad", "pt-peft-truncate", "pt-peft-ratio", "pt-peft-pooled"),
        "rankme": ("rankme",),
        "renyi": ("renyi-1", "renyi-2"),
        "self_cluster": ("self-cluster",),
        "sinks": ("sink-rows", "massive-dimensions"),
        "stable_rank": ("stable-rank", "nesum"),
        "two_nn": ("two-nn",),
    },
    "comparisons": {
        "cca": ("cca", "cca-adjusted", "cca-mean", "cca-angle", "svcca", "pwcca"),
        "cka": ("cka", "cka-biased"),
        "drift": ("drift", "drift-mean-share", "drift-inside", "drift-rank", "drift-1", "drift-share-1"),
        "gaussian": ("bures", "frechet", "affine-distance"),
        "kernel_cka": ("kernel-cka",),
        "modality": ("modality-gap", "modality-cosine", "modality-share"),
        "neighbours": ("mutual-neighbours",),
        "procrustes": (
            "procrustes",
            "procrustes-angle",
            "procrustes-disparity",
            "procrustes-held-out",
            "identity-distance",
            "rotation-gap",
        ),
        "recoverability": ("recoverability", "recoverable-components", "recoverability-1"),
        "rsa": ("rsa",),
        "spectra": (
            "log-wasserstein",
            "log-wasserstein-2",
            "atom-wasserstein",
            "spectrum-kl",
            "spectrum-js",
            "cumulative-distance",
        ),
        "subspace": ("overlap", "subspace-distance", "variance-captured"),
        "usage": ("usage-entropy", "usage-1", "relative-usage-1"),
    },
    "weights": {
        "bf16_moved": ("bf16-moved",),
        "intruders": ("intruders",),
        "on_data": ("on-data-effective", "on-data-participation", "on-data-share"),
        "rotation": ("rotation-left", "rotation-right"),
        "spectral_shift": ("spectral-shift",),
        "updates": ("update-effective", "prefix-effective"),
        "weight_alpha": ("weight-alpha",),
    },
}
"""The names of the numbers of one run, of two runs and of weights, by package and file."""
ORDERS = ("hill", "hill-sigma", "renyi")
"""Families with a member for every order, as in ``hill-0.5``, ``hill-sigma-3`` and ``renyi-inf``."""
ALIASES = {
    **dict.fromkeys(("effective-rank", "erank", "er"), "roy-vetterli"),
    **dict.fromkeys(("pr", "participation", "participation-ratio-unbiased"), "participation-ratio"),
    **dict.fromkeys(("von-neumann-rank", "matrix-entropy-rank"), "entropy-rank"),
    **dict.fromkeys(("matrix-entropy", "von-neumann-entropy", "spectral-entropy", "svd-entropy"), "renyi-1"),
    **dict.fromkeys(("srank", "numeric-rank"), "stable-rank"),
    **dict.fromkeys(("average-cosine", "mean-cosine"), "anisotropy"),
    **dict.fromkeys(("mutual-knn", "mknn"), "mutual-neighbours"),
    **dict.fromkeys(("grassmann", "geodesic-distance", "principal-angles"), "subspace-distance"),
    **dict.fromkeys(("subspace-overlap", "subspace-similarity"), "overlap"),
    **dict.fromkeys(("bures-wasserstein", "wasserstein-2"), "bures"),
    **dict.fromkeys(("frechet-distance", "fid"), "frechet"),
    "linear-cka": "cka",
    "explained-variance": "variance-captured",
    "feature-distortion": "drift",
    "self-clustering": "self-cluster",
    "shape-distance": "procrustes-angle",
    "twonn": "two-nn",
    "iso-score": "isoscore",
    "rank-me": "rankme",
    "alphareq": "alpha-req",
}
"""What the field calls a measure → its name here."""
DIRECTIONS = ("usage", "relative-usage", "recoverability", "drift", "drift-share")
"""Families of relations with a member for every principal direction, of the base as in ``usage-3`` and ``drift-1``, or of the drift."""


def canonical(name: str) -> str:
    """The name here of a measure, which the field may call otherwise: ``Effective_Rank`` is ``roy-vetterli``.

    Names that are not known, and ``file.py:function``, come back as they are.
    """
    spelled = re.sub(r"[_\s]+", "-", name.strip().lower())
    if ".py:" in name or not (is_own(spelled) or any(spelled in plugins.entries(group) for group in FILES)):
        return name
    return ALIASES.get(spelled, spelled)


def own(package: str) -> tuple[str, ...]:
    """The names that one of the packages in :data:`FILES` defines."""
    return tuple(name for some in FILES[package].values() for name in some)


_OWN = {name for package in FILES for name in own(package)}


def is_own(name: str) -> bool:
    """Whether a name is one of rankscope's own, another name for one, or a member of a family."""
    return name in _OWN or name in ALIASES or member(name) is not None


def names(package: str) -> tuple[str, ...]:
    """The names that one of the packages in :data:`FILES` defines, and those that plug-ins add to them."""
    return (*own(package), *(name for name in plugins.entries(package) if not misnamed(name)))


def misnamed(name: str) -> str:
    """Why a plug-in's measure cannot be asked for by its name; empty if it can."""
    if is_own(name):
        return f"is not used: {name!r} is rankscope's own"
    if not re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)*", name):
        return "has a name that cannot be asked for: small letters, digits and dots are, with hyphens between words"
    if all(name in plugins.entries(group) for group in ("measures", "comparisons")):
        return "is offered as a measure of one run and of two; it is one of them"
    return ""


def member(name: str) -> tuple[str, str] | None:
    """The family and the order or direction that a name such as ``hill-0.5`` stands for; None for any other name."""
    family, _, which = name.rpartition("-")
    of_order = family in ORDERS and re.fullmatch(r"\d+(\.\d+)?|inf", which)
    of_direction = family in DIRECTIONS and re.fullmatch(r"[1-9]\d*", which)
    return (family, which) if of_order or of_direction else None


def listed(text: str) -> list[str]:
    """The names in a comma-separated list, as they are here; ``usage-1..8`` stands for eight of them."""
    return [canonical(name) for part in text.split(",") for name in _counted(part.strip())]


def _counted(name: str) -> list[str]:
    """The names that ``usage-1..8`` abbreviates; a name without such a range is itself the only one."""
    if parts := re.fullmatch(r"(.+-)(\d+)\.\.(\d+)", name):
        return [f"{parts[1]}{i}" for i in range(int(parts[2]), int(parts[3]) + 1)] or [name]
    return [name]


def check_measure(name: str, *, relations: bool = True) -> None:
    """Check that there is such a measure; of ``file.py:function``, that there is such a file.

    Args:
        name: the name.
        relations: whether it may be a number of two runs.

    Raises:
        UnknownName: if there is not; the message has the three nearest names, other names of the field among them.
        UsageError: if it is a number of weights, or of two runs where that has no meaning.
    """
    if ".py:" in name:
        path, _, function = name.rpartition(":")
        if not (path.endswith(".py") and Path(path).is_file()):
            raise UnknownName(f"there is no file {path!r} that could define the measure {function!r}")
        return
    name = canonical(name)
    if name in names("weights"):
        raise UsageError(f"{name} is a number of weights, not of features; ask 'rankscope weights' for it")
    found = member(name)
    known = (*names("measures"), *names("comparisons"))
    if found is None and name not in known:
        nearest = dict[str, str]()  # no measure twice
        for one in get_close_matches(name, (*known, *ALIASES), n=9, cutoff=0):
            nearest.setdefault(canonical(one), one)
        near = ", ".join([*nearest.values()][:3])
        raise UnknownName(
            f"there is no measure {name!r} (nearest: {near}); 'rankscope definitions' lists all {len(known)}"
        )
    if not relations and (name in names("comparisons") or (found is not None and found[0] in DIRECTIONS)):
        raise UsageError(f"{name} relates two runs; ask compare for it")
