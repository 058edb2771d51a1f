"""Reference and current samples of real vectors, with and without damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from monitors.drift.clusters import cluster
from tests.benchmarks.drift_vectors import Floats, Sample, Variant, sample

__all__ = ["SCENARIOS", "Pair", "Population"]

Pair = tuple[Floats, Floats]
"""Reference and current sample."""

_GROUPS = 6
"""The 77 intents of banking77 are narrow; groups of alike ones are topics as a corpus has them."""

_LEAST_TOPIC = 200
"""Documents that a topic must have: no window takes one twice."""


@dataclass(frozen=True)
class Population:
    """A set to draw from, and another set that is a foreign domain to it."""

    name: str
    far_name: str

    @cached_property
    def own(self) -> Sample:
        """The set's vectors; topics of banking77 are groups of intents."""
        found = sample(self.name)
        return _grouped(found) if self.name == "banking77" else found

    @cached_property
    def vectors(self) -> Floats:
        """Of length one."""
        return self.own.unit

    @cached_property
    def far(self) -> Floats:
        """Vectors of the foreign domain."""
        return sample(self.far_name).unit

    @cached_property
    def topics(self) -> list[str]:
        """Topics with enough documents."""
        names, counts = np.unique(self.own.labels, return_counts=True)
        return [
            str(name)
            for name, count in zip(names, counts, strict=True)
            if name and count >= _LEAST_TOPIC
        ]

    def damaged(self, variant: Variant) -> Floats:
        """Vectors of the set's first texts, encoded with damage."""
        return sample(self.name, variant).unit

    def disjoint(self, random: np.random.Generator, *sizes: int) -> list[np.ndarray]:
        """Rows, each once."""
        order = random.permutation(len(self.vectors))
        return np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])


def no_drift(population: Population, n: int, random: np.random.Generator) -> Pair:
    """Two samples of one set."""
    old, new = population.disjoint(random, n, n)
    return population.vectors[old], population.vectors[new]


def mix(share: float) -> Callable[[Population, int, np.random.Generator], Pair]:
    """A share of the window replaced by one topic."""

    def draw(population: Population, n: int, random: np.random.Generator) -> Pair:
        topic = random.choice(population.topics)
        of_topic = random.permutation(np.flatnonzero(population.own.labels == topic))
        flood = of_topic[: round(share * n)]
        rest = random.permutation(np.setdiff1d(np.arange(len(population.vectors)), flood))
        new = np.concatenate([rest[n : 2 * n - len(flood)], flood])
        return population.vectors[rest[:n]], population.vectors[new]

    return draw


def new_topic(share: float) -> Callable[[Population, int, np.random.Generator], Pair]:
    """A topic that the reference does not have is a share of the window."""

    def draw(population: Population, n: int, random: np.random.Generator) -> Pair:
        topic = random.choice(population.topics)
        is_topic = population.own.labels == topic
        flood = random.permutation(np.flatnonzero(is_topic))[: round(share * n)]
        rest = random.permutation(np.flatnonzero(~is_topic))
        new = np.concatenate([rest[n : 2 * n - len(flood)], flood])
        return population.vectors[rest[:n]], population.vectors[new]

    return draw


def far(share: float) -> Callable[[Population, int, np.random.Generator], Pair]:
    """A share of the window is of another set."""

    def draw(population: Population, n: int, random: np.random.Generator) -> Pair:
        count = round(share * n)
        old, new = population.disjoint(random, n, n - count)
        foreign = population.far[random.permutation(len(population.far))[:count]]
        return population.vectors[old], np.concatenate([population.vectors[new], foreign])

    return draw


def damage(
    variant: Variant, share: float = 1.0
) -> Callable[[Population, int, np.random.Generator], Pair]:
    """A share of the window is encoded with damage; its documents are not in the reference."""

    def draw(population: Population, n: int, random: np.random.Generator) -> Pair:
        vectors = population.damaged(variant)
        hit = random.permutation(len(vectors))[: round(share * n)]
        rest = random.permutation(np.setdiff1d(np.arange(len(population.vectors)), hit))
        clean = population.vectors[rest[n : 2 * n - len(hit)]]
        return population.vectors[rest[:n]], np.concatenate([clean, vectors[hit]])

    return draw


def not_normalised(population: Population, n: int, random: np.random.Generator) -> Pair:
    """The encoder's output without its last step."""
    old, new = population.disjoint(random, n, n)
    return population.vectors[old], population.own.vectors[new]


def padded(population: Population, n: int, random: np.random.Generator) -> Pair:
    """320 components, filled up with zeros, of length one."""
    old, new = population.disjoint(random, n, n)
    short = population.vectors[new].copy()
    short[:, 320:] = 0
    return population.vectors[old], short / np.linalg.norm(short, axis=1, keepdims=True)


def half_precision(population: Population, n: int, random: np.random.Generator) -> Pair:
    """The window was stored as float16."""
    old, new = no_drift(population, n, random)
    return old, new.astype(np.float16).astype(np.float32)


def duplicates(population: Population, n: int, random: np.random.Generator) -> Pair:
    """A fifth of the window's documents are there three times."""
    old, new = no_drift(population, n, random)
    repeated = new[: n // 5]
    return old, np.concatenate([new, repeated, repeated])


def churn(population: Population, n: int, random: np.random.Generator) -> Pair:
    """Four fifths of the window's documents are the reference's, a fifth has been replaced."""
    old, fresh = population.disjoint(random, n, n // 5)
    kept = random.permutation(old)[: n - len(fresh)]
    new = np.concatenate([kept, fresh])
    return population.vectors[old], population.vectors[new]


def _grouped(found: Sample) -> Sample:
    names = np.unique(found.labels)
    centres = np.stack([found.unit[found.labels == name].mean(axis=0) for name in names])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    members = cluster(centres, np.random.default_rng(3), _GROUPS).members
    group = {name: f"group {number}" for name, number in zip(names, members, strict=True)}
    return Sample(found.vectors, np.array([group[name] for name in found.labels]))


SCENARIOS: dict[str, Callable[[Population, int, np.random.Generator], Pair]] = {
    "mix20": mix(0.2),
    "mix10": mix(0.1),
    "new10": new_topic(0.1),
    "far05": far(0.05),
    "boilerplate_10": damage("boilerplate", 0.1),
    "int8 weights": damage("int8"),
    "wrong pooling": damage("cls"),
    "not normalised": not_normalised,
    "padded": padded,
    "float16 storage": half_precision,
    "duplicates": duplicates,
    "20 % churn": churn,
    "no drift": no_drift,
}
