"""Training of the shared weights of a supernet: pure steps for loops that are jitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from jaxcompress.core.paths import Where, flatten_with_paths
from jaxcompress.core.tree import merge
from jaxcompress.search.genes import Genes
from jaxcompress.search.shared_weights import split_shared
from jaxcompress.search.supernet.sampling import largest, sample_above

if TYPE_CHECKING:
    from jaxcompress.search.space import Space

Apply = Callable[[Any, Any, Any, "jax.Array | None"], Any]


class TrainingState(NamedTuple):
    """Where a training stands: a pytree of arrays.

    Attributes:
        params: all variables of the supernet.
        opt_state: of the optimizer, for the leaves that train.
        step: int32, steps done.
        key: of the draws to come.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    key: jax.Array


def soft_cross_entropy(logits: jax.Array, teacher: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    """Mean cross entropy of logits against the probabilities of other logits: distillation.

    Args:
        logits: ``[..., classes]``.
        teacher: of the same shape; no gradient flows into it.
        temperature: divides both; the result is multiplied by its square, which keeps the size of gradients.

    Example:
        >>> zeros = jnp.zeros((1, 2))
        >>> round(float(soft_cross_entropy(zeros, zeros)), 4)
        0.6931

    References:
        Hinton et al., 2015, section 2. https://arxiv.org/abs/1503.02531
    """
    wanted = jax.nn.softmax(jax.lax.stop_gradient(teacher) / temperature)
    return -(temperature**2) * jnp.mean(jnp.sum(wanted * jax.nn.log_softmax(logits / temperature), axis=-1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a supernet is trained: which subnets a step draws, and what they learn from.

    One step sums the gradients of all its subnets and updates the shared weights once. `init` and `step` are pure, so
    that a training is a `jax.lax.scan`, and it can be vmapped over keys. `sandwich` and `once_for_all` make the usual
    ones.

    Attributes:
        space: of the subnets; values of its discrete variables ascend.
        apply: ``(params, genome, batch, key) -> outputs`` for a decoded genome; traced. The key is for dropout and the
            like, None where there is to be none.
        loss: ``(outputs, batch) -> scalar``: against the labels.
        tx: the optimizer.
        random: how many subnets are drawn at random in a step.
        extremes: whether each step also takes the largest and the smallest subnet.
        distill: ``(outputs, outputs of the teacher) -> scalar``, what subnets learn from the largest; None for the
            labels alone.
        labels: weight of ``loss`` in subnets other than the largest, beside ``distill``.
        noise: which subnets get a key: ``"largest"`` (BigNAS: the others underfit anyway) or ``"all"``.
        updates: whether ``apply`` returns ``(outputs, updates)``, a dict of collections of ``params`` that are
            replaced, such as ``{"batch_stats": ...}``. Those of the largest subnet are taken; without it none are.
        where: the leaves that train; default all float ones outside of a ``batch_stats`` collection.
        unroll: whether the subnets of a step stand one behind the other in its program; False scans over them, which
            compiles faster. On CPU, XLA's gradients of convolutions are tens of times slower inside of a loop: unroll,
            and call the jitted step from Python.
    """

    space: Space
    apply: Apply
    loss: Callable[[Any, Any], jax.Array]
    tx: optax.GradientTransformation
    random: int = 2
    extremes: bool = True
    distill: Callable[[Any, Any], jax.Array] | None = soft_cross_entropy
    labels: float = 0.0
    noise: Literal["largest", "all"] = "largest"
    updates: bool = False
    where: Where = None
    unroll: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for settings that draw nothing or learn nothing."""
        if self.random < 0 or (self.random == 0 and not self.extremes):
            raise ValueError(f"Training: random={self.random} and extremes={self.extremes} draw no subnet")
        if self.distill is None and self.labels == 0:
            raise ValueError("Training: without distill= subnets learn nothing at labels=0; set labels=1")
        if self.noise not in ("largest", "all"):
            raise ValueError(f"Training: noise must be 'largest' or 'all', got {self.noise!r}")

    def init(self, params: Any, key: jax.Array) -> TrainingState:
        """The state before the first step.

        Raises:
            ValueError: if a concrete float leaf holds NaN or infinity; names it.
        """
        for path, leaf in zip(*flatten_with_paths(params)[:2], strict=True):
            if isinstance(leaf, Tracer) or not jnp.issubdtype(leaf.dtype, jnp.floating):
                continue
            with jax.ensure_compile_time_eval():
                finite = bool(jnp.isfinite(leaf).all())
            if not finite:
                raise ValueError(f"Training: params has NaN or infinity at {path!r}")
        return TrainingState(params, self.tx.init(self._split(params)[0]), jnp.zeros((), jnp.int32), key)

    def step(
        self, state: TrainingState, batch: Any, *, floors: Any = None, teacher: Any = None
    ) -> tuple[TrainingState, dict[str, jax.Array]]:
        """One update of the shared weights.

        Args:
            state: where the training stands.
            batch: the data, as ``apply`` and ``loss`` take it.
            floors: int32 ``[discrete]``, the least code of each variable in this phase (`progressive_shrinking`); may
                be traced, so that all phases are one program. Default 0.
            teacher: parameters of a teacher, the largest subnet of which is learned from; by default the largest one of
                the supernet itself, as it is now.

        Returns:
            The new state, and losses: ``"largest"`` against the labels (where it is trained), ``"subnets"``
            ``[subnets]`` (the smallest first, where extremes are trained).
        """
        key, draw, noise = jax.random.split(state.key, 3)
        trained, frozen = self._split(state.params)
        first, second = jax.random.split(noise)
        whole = self.space.decode(largest(self.space))
        losses: dict[str, jax.Array] = {}
        gradient = jax.tree.map(jnp.zeros_like, trained)
        outputs = updates = None

        def against_labels(trained: Any) -> tuple[jax.Array, tuple[Any, Any]]:
            outputs, updates = self._outputs(merge(trained, frozen), whole, batch, first)
            return self.loss(outputs, batch), (outputs, updates)

        if self.extremes:
            graded = jax.value_and_grad(against_labels, has_aux=True)
            (losses["largest"], (outputs, updates)), gradient = graded(trained)
        if teacher is not None or (outputs is None and self.distill is not None):
            outputs, _ = self._outputs(state.params if teacher is None else teacher, whole, batch, None)
        taught = jax.lax.stop_gradient(outputs)

        def one(total: Any, drawn: tuple[Genes, jax.Array]) -> tuple[Any, jax.Array]:
            genes, key = drawn
            genome = self.space.decode(genes)

            def of(trained: Any) -> jax.Array:
                given = key if self.noise == "all" else None
                return self._taught(self._outputs(merge(trained, frozen), genome, batch, given)[0], taught, batch)

            loss, own = jax.value_and_grad(of)(trained)
            return jax.tree.map(jnp.add, total, own), loss

        genes = self._draw(draw, floors)
        keys = jax.random.split(second, genes.codes.shape[0])
        gradient, losses["subnets"] = jax.lax.scan(one, gradient, (genes, keys), unroll=self.unroll)
        change, opt_state = self.tx.update(gradient, state.opt_state, trained)
        params = merge(optax.apply_updates(trained, change), frozen)
        if updates is not None:
            params = {**params, **updates}
        return TrainingState(params, opt_state, state.step + 1, key), losses

    def _draw(self, key: jax.Array, floors: Any) -> Genes:
        """The subnets of a step besides the largest: the smallest first."""
        least = jnp.zeros(self.space.discrete, jnp.int32) if floors is None else jnp.asarray(floors, jnp.int32)
        drawn = sample_above(self.space, key, self.random, least)
        if not self.extremes:
            return drawn
        small = self.space.canonical(Genes(least, jnp.zeros(self.space.continuous, jnp.float32)))
        return jax.tree.map(lambda one, rows: jnp.concatenate([one[None], rows]), small, drawn)

    def _outputs(self, params: Any, genome: Any, batch: Any, key: jax.Array | None) -> tuple[Any, Any]:
        found = self.apply(params, genome, batch, key)
        return found if self.updates else (found, None)

    def _taught(self, outputs: Any, taught: Any, batch: Any) -> jax.Array:
        """What a subnet learns from."""
        parts = []
        if self.distill is not None:
            parts.append(self.distill(outputs, taught))
        if self.labels:
            parts.append(self.labels * self.loss(outputs, batch))
        return sum(parts[1:], start=parts[0])

    def _split(self, params: Any) -> tuple[Any, Any]:
        return split_shared(params, self.where)


def sandwich(
    space: Space,
    apply: Apply,
    loss: Callable[[Any, Any], jax.Array],
    tx: optax.GradientTransformation,
    *,
    random: int = 2,
    **options: Any,
) -> Training:
    """The sandwich rule with in-place distillation, which BigNAS trains with too.

    Each step takes the largest subnet, which learns from the labels, and the smallest and ``random`` others, which
    learn from the largest one's outputs, without a gradient into these. Dropout and the like only the largest gets
    (BigNAS, section 3.1). Weight decay belongs into ``tx``, where it acts once for each weight. BigNAS lets the
    learning rate fall exponentially to 5 % of the first one:
    ``optax.exponential_decay(rate, steps, decay, end_value=0.05 * rate)``.

    Args:
        space: of the subnets, as are the others of `Training`.
        apply: ``(params, genome, batch, key) -> outputs``.
        loss: ``(outputs, batch) -> scalar``.
        tx: the optimizer; gradients of the subnets are summed.
        random: how many subnets besides the extremes.
        **options: further fields of `Training`.

    Example:
        >>> import optax
        >>> from jaxcompress.search.supernet import Supernet
        >>> params = {"a": jnp.ones((2, 4)), "b": jnp.ones((4, 3))}
        >>> fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
        >>> supernet = Supernet.from_model(fn, params, jnp.ones((1, 2)), round_to=1)
        >>> training = sandwich(
        ...     supernet.space,
        ...     lambda params, genome, batch, key: supernet.apply(params, genome, batch[0]),
        ...     lambda logits, batch: optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean(),
        ...     optax.sgd(0.1),
        ... )
        >>> batches = jnp.ones((5, 8, 2)), jnp.zeros((5, 8), jnp.int32)
        >>> state, losses = jax.lax.scan(training.step, training.init(params, jax.random.key(0)), batches)
        >>> int(state.step), losses["subnets"].shape, bool(losses["largest"][-1] < losses["largest"][0])
        (5, (5, 3), True)

    References:
        Yu and Huang, 2019, section 3. https://arxiv.org/abs/1903.05134; Yu et al., 2020 (BigNAS).
        https://arxiv.org/abs/2003.11142
    """
    return Training(space=space, apply=apply, loss=loss, tx=tx, random=random, **options)


def once_for_all(
    space: Space,
    apply: Apply,
    loss: Callable[[Any, Any], jax.Array],
    tx: optax.GradientTransformation,
    *,
    random: int = 4,
    **options: Any,
) -> Training:
    """The steps of Once-for-All: random subnets of the phase, taught by the labels and by the whole network.

    Train the whole network first (the phase ``"whole"`` of `progressive_shrinking`, or in any other way), then hand its
    parameters to every step of the later phases as ``teacher=``, and the phase's ``floors=``.

    Args:
        space: of the subnets, as are the others of `Training`.
        apply: ``(params, genome, batch, key) -> outputs``.
        loss: ``(outputs, batch) -> scalar``.
        tx: the optimizer; gradients of the subnets are summed.
        random: how many subnets a step draws.
        **options: further fields of `Training`.

    References:
        Cai et al., 2020, section 3.3. https://arxiv.org/abs/1908.09791
    """
    settings = {"extremes": False, "labels": 1.0, "noise": "all", **options}
    return Training(space=space, apply=apply, loss=loss, tx=tx, random=random, **settings)
