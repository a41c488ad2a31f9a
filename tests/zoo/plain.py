"""Plain functions of one or two matrices: every way in which a weight may reach a product."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.zoo.model import arrays, data, entry, ids

D = 16

# name -> (function of (x, w), reading of w's axes); x is (4, D), w is (D, D). None: the weight's axes change their
# size before the product, or mix their roles in it: nobody can say what they mean.
ONE_MATRIX = {
    "dot": (lambda x, w: x @ w, "io"),
    "matmul": (lambda x, w: jnp.matmul(x, w), "io"),
    "lax_dot": (lambda x, w: lax.dot(x, w), "io"),
    "tensordot": (lambda x, w: jnp.tensordot(x, w, 1), "io"),
    "transposed": (lambda x, w: x @ w.T, "oi"),
    "lhs": (lambda x, w: (w @ x.T).T, "oi"),
    "vmap_dot": (lambda x, w: jax.vmap(lambda row: row @ w)(x), "io"),
    "einsum_lhs": (lambda x, w: jnp.einsum("ij,bj->bi", w, x), "oi"),
    "mask": (lambda x, w: x @ (w * (jnp.abs(w) > 0.1).astype(w.dtype)), "io"),
    "constant_mask": (lambda x, w: x @ (w * jnp.tri(D)), "io"),
    "weight_norm": (lambda x, w: x @ (w / jnp.linalg.norm(w, axis=0, keepdims=True)), "io"),
    "standardised": (lambda x, w: x @ ((w - w.mean(0, keepdims=True)) / (w.std(0, keepdims=True) + 1e-5)), "io"),
    "scalar_scale": (lambda x, w: x @ (w * 0.5), "io"),
    "negated": (lambda x, w: x @ -w, "io"),
    "divided": (lambda x, w: x @ (w / jnp.sqrt(jnp.float32(D))), "io"),
    "astype_bf16": (lambda x, w: x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16), "io"),
    "heads": (lambda x, w: jnp.einsum("bi,ihd->bhd", x, w.reshape(D, 4, 4)), "io"),
    "heads_contracted": (lambda x, w: jnp.einsum("bhd,hdo->bo", x.reshape(4, 4, 4), w.reshape(4, 4, D)), "io"),
    "heads_per_head": (lambda x, w: jnp.einsum("bhi,hio->bho", x.reshape(4, 4, 4), w.reshape(4, 4, D)), None),
    "split_slice": (lambda x, w: (x @ w[:, :8], x @ w[:, 8:12], x @ w[:, 12:]), "io"),
    "split": (lambda x, w: jnp.split(w, 2, axis=1)[1].T @ x.T, "io"),
    "strided_slice": (lambda x, w: x[:, :8] @ w[::2], "io"),
    "rows_slice": (lambda x, w: x[:, :5] @ w[3:8], "io"),
    "dynamic_slice": (lambda x, w: x @ lax.dynamic_slice_in_dim(w, x.shape[0], 6, axis=1), "io"),
    "reversed": (lambda x, w: x @ w[::-1], "io"),
    "reversed_out": (lambda x, w: x @ w[:, ::-1], "io"),
    "rolled": (lambda x, w: x @ jnp.roll(w, 3, axis=1), "io"),
    "padded": (lambda x, w: x @ jnp.pad(w, ((0, 0), (0, 2))), None),
    "triangular": (lambda x, w: x @ jnp.tril(w), "io"),
    "used_twice": (lambda x, w: (x @ w) @ w, "io"),
    "twice_transposed": (lambda x, w: jnp.tanh(x @ w) @ w.T, "io/oi"),
    "gram": (lambda x, w: x @ (w.T @ w), "io"),
    "dot_and_sum": (lambda x, w: x @ w + w.sum(), "io"),
    "dot_and_norm": (lambda x, w: (x @ w, jnp.sum(w * w)), "io"),
    "squeezed": (lambda x, w: x @ jnp.squeeze(w[None], 0), "io"),
    "batched": (lambda x, w: jnp.matmul(x[:, None], jnp.broadcast_to(w, (4, D, D))), "io"),
    "vector": (lambda x, w: x[0] @ w, "io"),
    "first_row": (lambda x, w: x * w[:1], None),
    "elementwise": (lambda x, w: x * w[:4], None),
    "take_rows": (lambda x, w: w[jnp.arange(4)] + x, "lo"),
    "take_columns": (lambda x, w: x @ jnp.take(w, jnp.array([3, 0, 3]), axis=1), "ol"),
    "precision": (lambda x, w: jnp.dot(x, w, precision=lax.Precision.HIGHEST), "io"),
    "preferred_bf16": (
        lambda x, w: lax.dot_general(x, w, (([1], [0]), ([], [])), preferred_element_type=jnp.bfloat16),
        "io",
    ),
    "inner_jit": (lambda x, w: jax.jit(jnp.dot)(x, w), "io"),
    "named_scope": (lambda x, w: jax.named_call(jnp.dot, name="layer")(x, w), "io"),
    "stop_gradient": (lambda x, w: x @ w + lax.stop_gradient(x @ w), "io"),
    "sorted": (lambda x, w: x @ jnp.sort(w, axis=0), None),
    "solve": (lambda x, w: jnp.linalg.solve(w @ w.T + jnp.eye(D), x.T).T, "oi"),
}


def one_matrix(name):
    function, axes = ONE_MATRIX[name]
    weights = {} if axes is None else {"w": axes}
    return lambda params, x: function(x, params["w"]), arrays(w=(D, D)), (data(4, D),), {"weights": weights}


def einsum_three():
    def fn(params, x):
        return jnp.einsum("...i,ij,jk->...k", x, params["a"], params["b"])

    return fn, arrays(a=(D, 6), b=(6, 12)), (data(3, 2, D),), {"weights": {"a": "io", "b": "io"}}


def tensordot_two_axes():
    def fn(params, x):
        return jnp.tensordot(x, params["w"], axes=((1, 2), (2, 0)))

    return fn, arrays(w=(4, 5, 8)), (data(3, 8, 4),), {"weights": {"w": "ioi"}}


def batched_einsum():
    def fn(params, x):
        return jnp.einsum("bgi,gio->bgo", x, params["w"])

    return fn, arrays(w=(3, 8, 6)), (data(4, 3, 8),), {"weights": {"w": "sio"}}


def concatenated():
    def fn(params, x):
        return x @ jnp.concatenate([params["a"], params["b"]], axis=1)

    return fn, arrays(a=(D, 8), b=(D, 4)), (data(4, D),), {"weights": {"a": "io", "b": "io"}}


def concatenated_rows():
    def fn(params, x):
        return x @ jnp.concatenate([params["a"], params["b"]], axis=0)

    return fn, arrays(a=(6, 8), b=(10, 8)), (data(4, D),), {"weights": {"a": "io", "b": "io"}}


def stacked():
    def fn(params, x):
        return jnp.einsum("bi,sio->bso", x, jnp.stack([params["a"], params["b"]]))

    return fn, arrays(a=(D, 8), b=(D, 8)), (data(4, D),), {"weights": {"a": "io", "b": "io"}}


def stacked_in_step():
    def fn(params, x):
        return jnp.einsum("sbi,sio->sbo", x, jnp.stack([params["a"], params["b"]]))

    return fn, arrays(a=(D, 8), b=(D, 8)), (data(2, 4, D),), {"weights": {"a": "io", "b": "io"}}


def product_of_two():
    """Both operands of a product are parameters."""

    def fn(params, x):
        return x @ (params["a"] @ params["b"])

    return fn, arrays(a=(D, 6), b=(6, 12)), (data(4, D),), {"weights": {"a": "oi", "b": "io"}}


def sum_of_two():
    """The first of two weights that meet before the product stands for both."""

    def fn(params, x):
        return x @ (params["a"] + params["b"])

    return fn, arrays(a=(D, 12), b=(D, 12)), (data(4, D),), {"weights": {"a": "io"}}


def embedding_bag():
    """Two lookups in one table, and a positional slice of another."""

    def fn(params, tokens):
        table, positions = params["table"], params["positions"]
        x = table[tokens] + positions[: tokens.shape[1]][None]
        return x.sum(1) + jnp.take(table, tokens[:, 0], axis=0, mode="clip")

    weights = {"table": "lo"}
    return fn, arrays(table=(20, 8), positions=(9, 8)), (ids(3, 5, below=20),), {"weights": weights}


def mixed_tree():
    """Lists, tuples and scalars in the tree; an integer array and None pass through."""

    def fn(params, x, *, scale, power=2):
        (first, second), extra = params["layers"], params["extra"]
        x = jax.nn.relu(x @ first["w"] + first["b"][None]) @ second["w"]
        return (x * scale) ** power + extra["table"][0].astype(x.dtype)

    shapes = {"w": (D, 12), "b": (12,)}
    params = {
        "layers": (arrays(**shapes), arrays(seed=1, w=(12, 8))),
        "extra": {"table": jnp.arange(3), "none": None},
    }
    weights = {"layers/0/w": "io", "layers/1/w": "io"}
    return fn, params, (data(4, D),), {"weights": weights, "kwargs": {"scale": jnp.float32(0.5), "power": 2}}


def mlp_x64():
    def fn(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"].T

    params = arrays(dtype=jnp.float64, a=(D, 12), b=(8, 12))
    return fn, params, (data(4, D, dtype=jnp.float64),), {"weights": {"a": "io", "b": "oi"}}


MODELS = (
    *(entry(f"plain_{name}", lambda name=name: one_matrix(name)) for name in ONE_MATRIX),
    entry("plain_einsum_three", einsum_three),
    entry("plain_tensordot_two_axes", tensordot_two_axes),
    entry("plain_batched_einsum", batched_einsum),
    entry("plain_concatenated", concatenated),
    entry("plain_concatenated_rows", concatenated_rows),
    entry("plain_stacked", stacked),
    entry("plain_stacked_in_step", stacked_in_step, "no_batch"),
    entry("plain_product_of_two", product_of_two),
    entry("plain_sum_of_two", sum_of_two),
    entry("plain_embedding_bag", embedding_bag),
    entry("plain_mixed_tree", mixed_tree),
    entry("plain_x64", mlp_x64, "x64"),
)
