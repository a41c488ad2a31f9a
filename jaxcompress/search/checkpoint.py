"""The folder in which a search survives: after each generation its state and its archive, written by Orbax."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.artifact.container import write_atomically
from jaxcompress.search.archive import Rows
from jaxcompress.search.genes import Genes

FORMAT = "jaxcompress.search"
VERSION = 1
KEPT = 2
_IN_PROGRAM = frozenset({"space", "limits", "data"})


class Moment(NamedTuple):
    """A search between two generations.

    Attributes:
        generations: that are done.
        state: of the strategy.
        rows: of the archive.
        seconds: that it took so far.
    """

    generations: int
    state: Any
    rows: Rows
    seconds: float


class Checkpoints:
    """The states of one search on disk. A generation is there as a whole or not at all.

    Orbax writes beside and renames; what a killed process left half-written is not seen. Everything is stored as NumPy
    arrays (keys as their data), so that what is written does not depend on devices or processes.

    Args:
        folder: made if it is not there.
        identity: digests by name; what `identity` found.

    Raises:
        ImportError: without Orbax; names the extra.
        ValueError: if the folder holds another search (says what differs), or something else.
    """

    def __init__(self, folder: Path, identity: dict[str, str]) -> None:
        self.folder, self._identity = folder.absolute(), identity
        self.about: dict[str, Any] = {}
        if self._file.exists():
            self._read()
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"checkpoint={str(folder)!r} holds files that are no search's: take an empty folder")
        self._manager = _manager(self.folder)

    def note(self, **about: Any) -> None:
        """Writes down facts that JSON can hold: the executor, the names and dtypes of the metrics."""
        self.about |= about
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            content = {"format": FORMAT, "version": VERSION, "identity": self._identity, "about": self.about}
            write_atomically(self._file, [json.dumps(content, indent=1).encode()])

    def save(self, moment: Moment) -> None:
        """Writes a generation and lets go of the one before the last."""
        import orbax.checkpoint as ocp

        if moment.generations not in self._manager.all_steps():
            self._manager.save(moment.generations, args=ocp.args.StandardSave(_nonempty(_packed(moment))))

    def latest(self, state: Any, batch: int) -> Moment | None:
        """The last generation that was written, or None.

        Args:
            state: the shapes of the strategy's state (`jax.eval_shape` of ``init``): Orbax restores against it.
            batch: candidates of a generation.

        Raises:
            ValueError: if what is stored has other shapes.
        """
        import orbax.checkpoint as ocp

        generations = self._manager.latest_step()
        if generations is None:
            return None
        like = self._expected(state, generations, batch)
        found = self._manager.restore(generations, args=ocp.args.StandardRestore(_nonempty(like)))
        restored = jax.tree.map(np.asarray, {**like, **found, "state": {**like["state"], **found["state"]}})
        wrong = [
            a.shape for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True) if a.shape != b.shape
        ]
        if wrong:
            raise ValueError(f"checkpoint={str(self.folder)!r} does not hold a state of this strategy: delete it")
        return self._unpacked(restored, state, generations)

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()

    @property
    def _file(self) -> Path:
        return self.folder / "search.json"

    def _read(self) -> None:
        try:
            content = json.loads(self._file.read_text())
            known = content["format"] == FORMAT and content["version"] == VERSION
            theirs, self.about = dict(content["identity"]), dict(content["about"])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self._file} is no state of a search: delete it or take another folder") from error
        if not known:
            raise ValueError(f"{self._file} is of another version of the format: take another folder")
        different = [name for name, value in self._identity.items() if theirs.get(name) != value]
        if not _IN_PROGRAM.isdisjoint(different) and "evaluate" in different:
            different.remove("evaluate")  # these are in the program that it is known by: whether it differs is unknown
        if different:
            raise ValueError(
                f"checkpoint={str(self.folder)!r} holds another search, which differs in {', '.join(different)}: take "
                "another folder, or delete this one to start anew (the budget, the executor and report_data may change)"
            )

    def _expected(self, state: Any, generations: int, batch: int) -> dict[str, Any]:
        rows = generations * batch
        codes, values = (np.zeros((rows, n)) for n in self.about["genes"])
        genes: Any = (codes.astype(np.int32), values.astype(np.float32))
        metrics = {name: np.zeros(rows) for name in self.about["metrics"]}
        empty = Rows(
            Genes(*genes), np.zeros(rows, np.float32), metrics, np.zeros(rows, np.float32), np.zeros(rows, np.int64)
        )
        return _packed(Moment(generations, jax.tree.map(_zeros, state), empty, 0.0))

    def _unpacked(self, tree: dict[str, Any], state: Any, generations: int) -> Moment:
        leaves, treedef = jax.tree.flatten(state)
        restored = [_like(tree["state"][_name(i)], leaf) for i, leaf in enumerate(leaves)]
        metrics = {name: tree[f"metric {name}"].astype(dtype) for name, dtype in self.about["metrics"].items()}
        rows = Rows(Genes(tree["codes"], tree["values"]), tree["fidelity"], metrics, tree["violation"], tree["source"])
        return Moment(generations, jax.tree.unflatten(treedef, restored), rows, float(tree["seconds"]))


def _manager(folder: Path) -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError("checkpoint= needs Orbax: pip install 'jaxcompress[search]'") from error
    options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False, create=True)
    return ocp.CheckpointManager(folder, options=options)


def _packed(moment: Moment) -> dict[str, Any]:
    """All of a moment as one dict of NumPy arrays."""
    rows = moment.rows
    return {
        "state": {_name(i): _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(moment.state))},
        "codes": rows.genes.codes,
        "values": rows.genes.values,
        "fidelity": rows.fidelity,
        "violation": rows.violation,
        "source": rows.source,
        "seconds": np.asarray(moment.seconds),
        **{f"metric {name}": values.astype(np.float64) for name, values in rows.metrics.items()},
    }


def _nonempty(tree: dict[str, Any]) -> dict[str, Any]:
    """Orbax stores no arrays without entries."""
    return {
        name: _nonempty(entry) if isinstance(entry, dict) else entry
        for name, entry in tree.items()
        if isinstance(entry, dict) or entry.size
    }


def _name(i: int) -> str:
    return f"leaf {i:03d}"


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _impl(shape: Any) -> Any:
    """The implementation of abstract keys, which only a traced key tells."""
    found = []
    jax.eval_shape(lambda keys: found.append(jax.random.key_impl(keys)), shape)
    return found[0]


def _zeros(shape: Any) -> Any:
    if _is_key(shape):
        shape = jax.eval_shape(jax.random.key_data, shape)
    return np.zeros(shape.shape, shape.dtype)


def _plain(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if hasattr(leaf, "dtype") and _is_key(leaf) else leaf)


def _like(array: np.ndarray, shape: Any) -> jax.Array:
    if _is_key(shape):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=_impl(shape))
    return jnp.asarray(array, shape.dtype)
