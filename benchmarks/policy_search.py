"""Compression policies per second: the variant table in one program against compiling, and looping over, each of them.

A policy says of every layer of a small network (sklearn's digits, 594 images to judge by) its bits, sparsity and rank.
Three ways to know its error:

- **table**: ours. What each layer becomes under each setting is made once; one compiled program picks among it.
- **loop**: one compiled program whose bits, sparsities and ranks are runtime numbers, called from Python for every
  policy, as a search does that reads each score. Singular vectors and the order of magnitudes are precomputed for it.
- **rejit**: the same function with the policy as constants, compiled for each: as libraries with static configurations.

    python -m benchmarks.policy_search --only mlp cnn     # 3 minutes on 2 cores
    python -m benchmarks.policy_search --quick

What searched policies save in bytes at equal error are the parts of `benchmarks.policy_search_gains`:

    python -m benchmarks.policy_search --only lenet5 resnet20 llama
"""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.parts import Rows, run_parts
from benchmarks.policy_search_gains import GAINS
from benchmarks.results import row
from jaxcompress.search.policies import Evaluation, settings, variant_table

POLICIES, ROUNDS = 256, 5
BITS, SPARSITIES, RANKS = (2, 3, 4, 6, 8), (0.0, 0.5), (None, 0.5)

DENSE = ((64, 128), (128, 128), (128, 128), (128, 64), (64, 10))
CONVOLUTIONS = ((3, 3, 1, 16), (3, 3, 16, 32), (3, 3, 32, 32), (512, 64), (64, 10))


def network(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """Logits of digits ``[n, 64]``, or ``[n, 8, 8, 1]`` for kernels of convolutions."""
    for i in range(len(params)):
        w, b = params[f"layer{i}"]["w"], params[f"layer{i}"]["b"]
        if w.ndim == 4:
            strides = (2, 2) if i == 1 else (1, 1)
            x = jax.lax.conv_general_dilated(x, w, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b
        else:
            x = x.reshape(len(x), -1) @ w + b
        x = jax.nn.relu(x) if i < len(params) - 1 else x
    return x


def digits(convolutions: bool) -> tuple[np.ndarray, ...]:
    """Images and labels: to train on, and to judge by."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    images = images.reshape(-1, 8, 8, 1) if convolutions else images
    return tuple(train_test_split(images, labels.astype(np.int32), test_size=0.33, random_state=0))


def trained(shapes: tuple[tuple[int, ...], ...], images: np.ndarray, labels: np.ndarray, steps: int) -> dict[str, Any]:
    """The network after some steps of Adam."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = {
        f"layer{i}": {
            "w": jax.random.normal(keys[i], shape) * np.sqrt(2 / np.prod(shape[:-1])).astype(np.float32),
            "b": jnp.zeros(shape[-1]),
        }
        for i, shape in enumerate(shapes)
    }
    tx = optax.adam(2e-3)

    def loss(params: Any, at: jax.Array) -> jax.Array:
        logits = network(params, jnp.asarray(images)[at])
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)[at]).mean()

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        grads = jax.grad(loss)(params, jax.random.randint(key, (128,), 0, len(images)))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda params, keys: jax.lax.scan(step, (params, tx.init(params)), keys)[0][0])
    return run(params, jax.random.split(jax.random.key(1), steps))


def error(apply: Any, params: Any, data: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The part of the images that is taken for another digit."""
    return jnp.mean(apply(params, data[0]).argmax(-1) != data[1])


def prepared(params: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the policy, for `knobs`: singular vectors, and the order of the magnitudes."""
    found = {}
    for name, layer in params.items():
        w = layer["w"].reshape(-1, layer["w"].shape[-1])
        u, s, vt = jnp.linalg.svd(w, full_matrices=False)
        order = jnp.argsort(jnp.argsort(jnp.abs(w).ravel())).reshape(w.shape) / w.size
        found[name] = {"u": u, "s": s, "vt": vt, "order": order}
    return found


def knobs(params: Any, ready: Any, data: Any, bits: Any, sparsity: Any, rank: Any) -> jax.Array:
    """The error under a policy, all compressed in the program: knobs ``[layers]``, runtime arrays or constants."""
    tree = {}
    for i, (name, layer) in enumerate(params.items()):
        own, w = ready[name], layer["w"].reshape(-1, layer["w"].shape[-1])
        low = (own["u"] * jnp.where(jnp.arange(own["s"].size) < rank[i], own["s"], 0.0)) @ own["vt"]
        w = jnp.where(rank[i] >= own["s"].size, w, low)
        w = jnp.where(own["order"] >= sparsity[i], w, 0.0)
        largest = 2.0 ** (bits[i] - 1) - 1
        scale = jnp.maximum(jnp.abs(w).max(0, keepdims=True), 1e-8) / largest
        w = jnp.clip(jnp.round(w / scale), -largest, largest) * scale
        tree[name] = {"w": w.reshape(layer["w"].shape), "b": layer["b"]}
    return error(network, tree, data)


def speed(name: str, shapes: tuple[tuple[int, ...], ...], *, quick: bool) -> Rows:
    """Policies per second of one network, all three ways."""
    convolutions = len(shapes[0]) == 4
    images, judged, labels, answers = digits(convolutions)
    params = trained(shapes, images, labels, 100 if quick else 600)
    data = (jnp.asarray(judged), jnp.asarray(answers))
    bits, sparsities, ranks = ((4, 8), (0.0, 0.5), (None,)) if quick else (BITS, SPARSITIES, RANKS)
    count, rounds = (32, 2) if quick else (POLICIES, ROUNDS)

    began = time.perf_counter()
    choices = {"**/w": settings(bits=bits, sparsity=sparsities, rank=ranks)}
    table = variant_table(network, params, choices, inputs=(data[0][:1],))
    made = time.perf_counter() - began
    rng = np.random.default_rng(0)
    rows = np.stack([rng.choice(allowed, count * (rounds + 1)) for allowed in table.allowed], axis=1).astype(np.int32)
    batches = np.split(rows, rounds + 1)
    evaluations = {
        name: Evaluation(table, error, data=data, executor=name, capacity=count) for name in ("auto", "loop")
    }
    policies = [[runtime_knobs(table, one) for one in batch] for batch in batches]
    ready, looped = jax.jit(prepared)(params), jax.jit(knobs)
    rivals = {
        "table": lambda i: evaluations["auto"](batches[i]),
        "loop": lambda i: [float(looped(params, ready, data, *one)) for one in policies[i]],
        "loop over the table": lambda i: evaluations["loop"](batches[i]),
    }
    times = {rival: [] for rival in rivals}
    for i in range(rounds + 1):  # the first round compiles
        for rival, run in rivals.items():
            start = time.perf_counter()
            run(i)
            times[rival].append(time.perf_counter() - start)
    per_second = {rival: count / np.median(taken[1:]) for rival, taken in times.items()}
    ours, loop = per_second["table"], per_second["loop"]
    rejit = rejitted(params, ready, data, policies[0][: 3 if quick else 10])
    rows_out = [
        row(f"policies {name} per second", ours, "1/s", "jitted loop", loop),
        row(f"policies {name} over loop", ours / loop, "x", "jitted loop", 1.0),
        row(f"policies {name} over rejit", ours / rejit, "x", "re-jit per policy", 1.0),
        row(f"policies {name} rejit per second", rejit, "1/s", "jitted loop", loop),
        row(f"policies {name} table loop per second", per_second["loop over the table"], "1/s", "jitted loop", loop),
        row(f"policies {name} table made", made, "s", "", 0.0),
    ]
    print(f"{name}: executor {evaluations['auto'].executor}, {len(table.decisions)} layers of {table.cardinalities[0]}")
    return rows_out


def runtime_knobs(table: Any, policy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits, sparsities and ranks of the layers under a policy, float32."""
    chosen = [(d.settings[v], d.ranks[v]) for d, v in zip(table.leaves, policy.tolist(), strict=True)]
    bits = np.array([one.bits for one, _ in chosen], np.float32)
    sparsity = np.array([one.sparsity for one, _ in chosen], np.float32)
    return bits, sparsity, np.array([rank or 1e6 for _, rank in chosen], np.float32)


def rejitted(params: Any, ready: Any, data: Any, policies: list[Any]) -> float:
    """Policies per second where each is compiled as a program of its own."""
    start = time.perf_counter()
    for policy in policies:
        constants = [tuple(map(float, knob)) for knob in policy]
        program = jax.jit(lambda *given, constants=constants: knobs(*given, *constants))
        float(program(params, ready, data))
    return len(policies) / (time.perf_counter() - start)


PARTS = {"mlp": functools.partial(speed, "mlp", DENSE), "cnn": functools.partial(speed, "cnn", CONVOLUTIONS), **GAINS}


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts that are asked for."""
    run_parts("policy_search", __doc__, PARTS, quick=("mlp", "cnn"), arguments=arguments)


if __name__ == "__main__":
    main()
