"""ENAS: an LSTM learns by REINFORCE which decisions make good candidates."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcompress.search.checks import between, positive, whole
from jaxcompress.search.enas.baseline import Baseline, advantages
from jaxcompress.search.enas.boundary import allowed_values, bounded
from jaxcompress.search.enas.controller import Controller, Rules, likeliest, sampled
from jaxcompress.search.enas.policy import active, genes_of, reinforce_loss, rules_of, score_all
from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.judgement import judged
from jaxcompress.search.strategies.seeding import checked_seeds
from jaxcompress.search.strategy import Candidates, Fitness

if TYPE_CHECKING:
    from jaxcompress.search.space import Space


class ENASState(NamedTuple):
    """Where the controller stands: a pytree of arrays.

    Attributes:
        key: what is drawn next comes from it.
        step: int32, how often candidates were asked for.
        controller: the parameters of the LSTM.
        optimizer: the state of Adam.
        baseline: moving averages of what was told.
        allowed: bool ``[decisions, values]``: the values that there are (`allowed_values`); a `grow`n network has more.
        decided: int32 ``[batch, decisions]``: what the controller decided last, before limits.
        own: bool ``[batch]``: whether it was the controller who decided; seeds are not its doing.
        seeds: candidates that are asked for first.
    """

    key: jax.Array
    step: jax.Array
    controller: Controller
    optimizer: Any
    baseline: Baseline
    allowed: jax.Array
    decided: jax.Array
    own: jax.Array
    seeds: Genes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ENAS:
    """The controller of ENAS: an LSTM decides one variable after the other and learns from what became of it.

    Candidates are drawn from its policy, again and again the same ones too as it becomes certain (`run` looks those
    up). Every `tell` is one step of Adam along the REINFORCE gradient of the mean reward: minus the first objective,
    plus ``entropy`` times the entropy of the policy, minus what broken constraints cost, and decisions beyond the
    limits of a growing network. A moving average of the reward is the baseline. Decisions about variables that a
    candidate does not have are not made and get no gradient. Failed candidates count as the worst seen. Seeds are
    asked for first and enter the baseline; they are no decisions of the controller, so it learns nothing from them.

    Discrete spaces only. One objective, the first.

    Args:
        batch: candidates between two updates. On NAS-Bench-201 many small updates learn more from 200 queries than few
            large ones.
        hidden: units of the LSTM (the paper: 100).
        learning_rate: of Adam (the paper: 0.00035, for thousands of updates; this default suits hundreds of queries).
        entropy: the weight of the policy's entropy, in nats, in the reward.
        decay: of the baseline.
        constant: bounds the logits, ``constant * tanh(logits / temperature)`` (the paper's value).
        temperature: see ``constant`` (the paper's value).
        boundary_penalty: per decision, times how far beyond the limits it is (`jaxcompress.search.enas.boundary`).
            A high one leaves a policy that hardly tries what comes when the limits widen.
        violation_penalty: times ``log(1 + violation)`` of the constraints.
        scaled: measure the objective in its moving standard deviation, so that the weights above mean the same for any
            objective. False: the reward as in the paper, minus the plain objective.

    Raises:
        ValueError: for a setting out of range; by `init`, for a space with continuous variables.

    Example:
        >>> from jaxcompress.search.space import Choice, Space
        >>> space = Space({"kernel": Choice((3, 5, 7)), "act": Choice(("relu", "gelu"))})
        >>> strategy = ENAS(batch=4)
        >>> state = strategy.init(space, jax.random.key(0))
        >>> candidates, state = strategy.ask(space, state)
        >>> candidates.genes.codes.shape
        (4, 2)

    References:
        Pham et al., 2018: Efficient Neural Architecture Search via Parameter Sharing. https://arxiv.org/abs/1802.03268
        Zoph & Le, 2017: Neural Architecture Search with Reinforcement Learning. https://arxiv.org/abs/1611.01578
    """

    batch: int = 1
    hidden: int = 64
    learning_rate: float = 0.01
    entropy: float = 0.1
    decay: float = 0.9
    constant: float = 2.5
    temperature: float = 5.0
    boundary_penalty: float = 0.3
    violation_penalty: float = 1.0
    scaled: bool = True

    def __post_init__(self) -> None:
        whole(self, batch=self.batch, hidden=self.hidden)
        positive(self, learning_rate=self.learning_rate, constant=self.constant, temperature=self.temperature)
        between(self, 0, 1, decay=self.decay)
        most = float(jnp.finfo(jnp.float32).max)
        between(self, 0, most, entropy=self.entropy)
        between(self, 0, most, boundary_penalty=self.boundary_penalty, violation_penalty=self.violation_penalty)

    @property
    def multi_fidelity(self) -> bool:
        """Every candidate gets the full effort."""
        return False

    def init(self, space: Space, key: jax.Array, *, objectives: int = 1, seeds: Genes | None = None) -> ENASState:
        """The state before the first question: an all but uniform policy over the whole space."""
        whole(self, objectives=objectives)
        real = self.rules(space).real
        key, own = jax.random.split(key)
        decisions, values = real.shape
        controller = Controller.create(own, decisions=decisions, values=values, hidden=self.hidden)
        nobody = genes_of(jnp.zeros((0, decisions), jnp.int32))
        return ENASState(
            key=key,
            step=jnp.int32(0),
            controller=controller,
            optimizer=self._adam().init(controller),
            baseline=Baseline.create(),
            allowed=allowed_values(space),
            decided=jnp.zeros((self.batch, decisions), jnp.int32),
            own=jnp.zeros(self.batch, bool),
            seeds=nobody if seeds is None else checked_seeds(space, seeds),
        )

    def ask(self, space: Space, state: ENASState) -> tuple[Candidates, ENASState]:
        """Draws candidates from the policy (the seeds first), within the limits of the network."""
        key, draw = jax.random.split(state.key)
        genes, decided = self.draw(space, state, draw, self.batch)
        own = jnp.ones(self.batch, bool)
        if given := len(state.seeds.codes):
            place = state.step * self.batch + jnp.arange(self.batch, dtype=jnp.int32)
            own = place >= given
            seeds = state.seeds.codes[jnp.minimum(place, given - 1)]
            genes = genes_of(jnp.where(own[:, None], genes.codes, seeds))
            decided = jnp.where(own[:, None], decided, seeds)
        state = state._replace(key=key, step=state.step + 1, decided=decided, own=own)
        return Candidates(genes, jnp.ones(self.batch, jnp.float32)), state

    def tell(self, space: Space, state: ENASState, candidates: Candidates, fitness: Fitness) -> ENASState:
        """One step of Adam on what became of the decisions asked for last."""
        rules = self.rules(space)
        told = judged(fitness)
        objective = told.objectives[:, 0]
        violation = jnp.where(jnp.isfinite(objective), told.violation, 0.0)
        beyond = jax.vmap(lambda codes: bounded(space, state.allowed, codes).excess)(state.decided)
        beyond = jnp.sum(jnp.where(active(space, state.decided), beyond, 0.0), axis=1) * state.own
        entropies = score_all(state.controller, rules, state.decided).entropy
        bonus = (
            self.entropy * entropies - self.boundary_penalty * beyond - self.violation_penalty * jnp.log1p(violation)
        )
        gains, baseline = advantages(state.baseline, objective, bonus, decay=self.decay, scaled=self.scaled)
        slope = jax.grad(reinforce_loss)(
            state.controller, rules, state.decided, gains, entropy=self.entropy, weights=state.own.astype(jnp.float32)
        )
        updates, optimizer = self._adam().update(slope, state.optimizer, state.controller)
        controller = optax.apply_updates(state.controller, updates)
        return state._replace(controller=controller, optimizer=optimizer, baseline=baseline)

    def draw(self, space: Space, state: ENASState, key: jax.Array, n: int) -> tuple[Genes, jax.Array]:
        """Candidates ``[n]`` from the policy, within limits; and the decisions ``[n, decisions]`` before limits."""
        rules = self.rules(space)
        keys = jax.random.split(key, n)
        decided = jax.vmap(lambda own: sampled(state.controller, rules, own).codes)(keys)
        return self._within(space, state, decided), decided

    def likeliest(self, space: Space, state: ENASState) -> Genes:
        """The candidate that the policy holds for best, decision by decision, within limits."""
        decided = likeliest(state.controller, self.rules(space)).codes
        return jax.tree.map(lambda row: row[0], self._within(space, state, decided[None]))

    def log_probability(self, space: Space, state: ENASState, genes: Genes) -> jax.Array:
        """How likely the policy is to decide for these canonical candidates ``[n]``, in nats; before limits."""
        return score_all(state.controller, self.rules(space), genes.codes).log_probability

    def grow(self, state: ENASState, allowed: jax.Array) -> ENASState:
        """The state in a network that has the values of `jaxcompress.search.allowed_values`; what was learned stays.

        Raises:
            ValueError: for a table of another space.
        """
        if allowed.shape != state.allowed.shape:
            raise ValueError(f"allowed has shape {allowed.shape}, this space {state.allowed.shape}: see allowed_values")
        return state._replace(allowed=allowed)

    def rules(self, space: Space) -> Rules:
        """What there is to decide, and how."""
        return rules_of(space, constant=self.constant, temperature=self.temperature)

    def _within(self, space: Space, state: ENASState, decided: jax.Array) -> Genes:
        return space.canonical(genes_of(jax.vmap(lambda codes: bounded(space, state.allowed, codes).codes)(decided)))

    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)
