"""An LSTM that decides one variable after the other: a distribution over candidates with exact probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class Controller(NamedTuple):
    """The parameters of the controller, for ``decisions`` variables of at most ``values`` values each.

    Attributes:
        first: ``[hidden]``: the input before the first decision.
        embeddings: ``[decisions, values, hidden]``: the input after a decision for a value.
        kernel: ``[2 * hidden, 4 * hidden]``: input and hidden state to the four gates (input, forget,
            output, new), without biases.
        heads: ``[decisions, hidden, values]``: hidden state to logits; each decision has its own.
        biases: ``[decisions, values]``.
    """

    first: jax.Array
    embeddings: jax.Array
    kernel: jax.Array
    heads: jax.Array
    biases: jax.Array

    @classmethod
    def create(cls, key: jax.Array, *, decisions: int, values: int, hidden: int) -> Controller:
        """Uniform in ``[-0.1, 0.1]`` (ENAS, section 3.1), biases zero: the first policy is all but uniform."""
        shapes = [(hidden,), (decisions, values, hidden), (2 * hidden, 4 * hidden), (decisions, hidden, values)]
        keys = jax.random.split(key, len(shapes))
        first, embeddings, kernel, heads = (
            jax.random.uniform(k, shape, jnp.float32, -0.1, 0.1) for k, shape in zip(keys, shapes, strict=True)
        )
        return cls(first, embeddings, kernel, heads, jnp.zeros((decisions, values), jnp.float32))


class Decided(NamedTuple):
    """One candidate, decided.

    Attributes:
        codes: int32 ``[decisions]``: the values chosen, 0 where the variable is inactive.
        log_probability: float32 scalar, of the whole candidate: a sum over the active decisions.
        entropy: float32 scalar: the entropies of the active decisions, each given those before it. Its mean over
            samples is an unbiased estimate of the entropy of the policy.
    """

    codes: jax.Array
    log_probability: jax.Array
    entropy: jax.Array


class Rules(NamedTuple):
    """What there is to decide, and how logits become probabilities: ``softmax(constant * tanh(logits / temperature))``.

    Attributes:
        order: int32 ``[decisions]``: which variable comes first; one that others depend on before these.
        real: bool ``[decisions, values]``: which values a variable has; others have probability 0.
        active: ``codes [decisions] -> bool [decisions]``: which variables those decided so far leave active (those not
            decided yet are 0).
        constant: bounds the logits, so that no value's odds exceed ``exp(2 * constant)``: none dies early.
        temperature: flattens them. ENAS (3.1) has 2.5 and 5, after Bello et al., 2017.
    """

    order: jax.Array
    real: jax.Array
    active: Callable[[jax.Array], jax.Array]
    constant: ArrayLike = 2.5
    temperature: ArrayLike = 5.0


def decide(controller: Controller, rules: Rules, choose: Callable[[jax.Array, jax.Array], jax.Array]) -> Decided:
    """Walks through the decisions; a variable that earlier decisions leave inactive is passed by without a trace.

    Args:
        controller: the parameters.
        rules: what there is to decide.
        choose: ``(which variable, log-probabilities [values]) -> code``: samples, or looks up what was decided.

    Returns:
        The candidate; differentiable in ``controller`` where ``choose`` does not depend on it.
    """
    decisions, hidden, _ = controller.heads.shape
    real = rules.real

    def step(carry, decision):
        cell, state, given, codes, log_probability, entropy = carry
        new_cell, new_state = lstm(controller.kernel, cell, state, given)
        logits = new_state @ controller.heads[decision] + controller.biases[decision]
        logits = rules.constant * jnp.tanh(logits / rules.temperature)
        log_probabilities = jax.nn.log_softmax(jnp.where(real[decision], logits, -jnp.inf))
        on = rules.active(codes)[decision]
        code = jnp.where(on, choose(decision, log_probabilities), 0).astype(jnp.int32)
        finite = jnp.where(real[decision], log_probabilities, 0.0)
        own = -jnp.sum(jnp.exp(finite) * finite * real[decision])

        def kept(new, old):
            return jnp.where(on, new, old)

        carry = (
            kept(new_cell, cell),
            kept(new_state, state),
            kept(controller.embeddings[decision, code], given),
            codes.at[decision].set(code),
            log_probability + jnp.where(on, finite[code], 0.0),
            entropy + jnp.where(on, own, 0.0),
        )
        return carry, None

    zero = jnp.zeros((), controller.kernel.dtype)
    nothing = jnp.zeros(hidden, controller.kernel.dtype)
    start = (nothing, nothing, controller.first, jnp.zeros(decisions, jnp.int32), zero, zero)
    (_, _, _, codes, log_probability, entropy), _ = jax.lax.scan(step, start, rules.order)
    return Decided(codes, log_probability, entropy)


def lstm(kernel: jax.Array, cell: jax.Array, state: jax.Array, given: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step of an LSTM without biases: the new cell and the new hidden state, each ``[hidden]``."""
    gates = jnp.concatenate([given, state]) @ kernel
    enter, forget, leave, new = jnp.split(gates, 4)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return cell, jax.nn.sigmoid(leave) * jnp.tanh(cell)


def sampled(controller: Controller, rules: Rules, key: jax.Array) -> Decided:
    """A candidate drawn from the policy."""
    keys = jax.random.split(key, controller.heads.shape[0])
    return decide(controller, rules, lambda i, logs: jax.random.categorical(keys[i], logs))


def scored(controller: Controller, rules: Rules, codes: jax.Array) -> Decided:
    """A canonical candidate ``[decisions]`` with its probability under the policy."""
    return decide(controller, rules, lambda i, _: codes[i])


def likeliest(controller: Controller, rules: Rules) -> Decided:
    """The candidate of the likeliest value at every decision (greedy; not always the likeliest candidate)."""
    return decide(controller, rules, lambda _, logs: jnp.argmax(logs))
