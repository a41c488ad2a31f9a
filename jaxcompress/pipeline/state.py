"""The folder in which a run can be interrupted: finished stages as artifacts, the running one as a checkpoint."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.artifact.container import write_atomically

FORMAT = "jaxcompress.run"
VERSION = 1


def fingerprint(*parts: Any) -> str:
    """A digest of strings and trees of arrays, keys included: the same for the same run.

    Example:
        >>> fingerprint("a", {"w": np.ones(2)}) == fingerprint("a", {"w": np.zeros(2)})
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        leaves, treedef = jax.tree.flatten(part)
        digest.update(str(treedef).encode())
        for leaf in leaves:
            array = _plain(leaf) if hasattr(leaf, "shape") else leaf
            described = f"{array.dtype}{array.shape}" if isinstance(array, np.ndarray) else repr(array)
            digest.update(described.encode())
            if isinstance(array, np.ndarray):
                digest.update(array.tobytes())
    return digest.hexdigest()


class RunFolder:
    """The state of one run on disk. Every file is written whole or not at all.

    Args:
        path: the folder; made if it is not there.
        identity: `fingerprint` of all that determines the run.

    Raises:
        ValueError: if the folder holds another run, or something unreadable; says the way out.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self.records: list[dict[str, Any]] = []
        path.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self._read()

    def file(self, name: str) -> Path:
        """Where a file of the run lies."""
        return self.path / name

    def add(self, record: dict[str, Any]) -> None:
        """Notes a finished stage, whose artifact is written already, and drops the checkpoint of its training."""
        self.records.append(record)
        content = {"format": FORMAT, "version": VERSION, "identity": self.identity, "records": self.records}
        write_atomically(self._file, [json.dumps(content, indent=1).encode()])
        self._checkpoint.unlink(missing_ok=True)

    def save_checkpoint(self, stage: int, about: dict[str, Any], state: Any) -> None:
        """Writes the state of a training stage: a tree of arrays, and facts that JSON can hold."""
        leaves = {f"leaf_{i}": _raw(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        header = json.dumps({"identity": self.identity, "stage": stage, **about})
        write_npz(self._checkpoint, {"about": np.frombuffer(header.encode(), np.uint8), **leaves})

    def load_checkpoint(self, stage: int, template: Any) -> tuple[dict[str, Any], Any] | None:
        """The checkpoint of a stage in the structure of ``template``, or None if there is none for it.

        Raises:
            ValueError: if the file is damaged or does not fit the template.
        """
        if not self._checkpoint.exists():
            return None
        leaves, treedef = jax.tree.flatten(template)
        try:
            with self._checkpoint.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                if about["identity"] != self.identity or about["stage"] != stage:
                    return None
                restored = [_restore(file[f"leaf_{i}"], leaf) for i, leaf in enumerate(leaves)]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self._checkpoint} is damaged ({error}): delete it to repeat that stage") from error
        return about, jax.tree.unflatten(treedef, restored)

    @property
    def _file(self) -> Path:
        return self.path / "run.json"

    @property
    def _checkpoint(self) -> Path:
        return self.path / "training.npz"

    def _read(self) -> None:
        try:
            content = json.loads(self._file.read_text())
            known = content["format"] == FORMAT and content["version"] == VERSION
            identity, records = content["identity"], content["records"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{self._file} is no state of a run: delete it or take another folder") from error
        if not known or identity != self.identity:
            raise ValueError(
                f"{self.path} holds the state of another run (other parameters, recipe, data, key or version): "
                "take another folder, or delete this one to start anew"
            )
        self.records = records


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> int:
    """Writes an uncompressed npz file, whole or not at all; returns its bytes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.npz"
        ...     write_npz(file, {"w": np.ones(2)}) == file.stat().st_size
        True
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return write_atomically(path, [buffer.getvalue()])


def _plain(leaf: Any) -> np.ndarray:
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _raw(leaf: Any) -> np.ndarray:
    """The bytes of an array: npz has no bfloat16."""
    return np.frombuffer(_plain(leaf).tobytes(), np.uint8)


def _restore(raw: np.ndarray, like: Any) -> jax.Array:
    plain = _plain(like)
    if raw.nbytes != plain.nbytes:
        raise ValueError(f"{raw.nbytes} bytes where {plain.nbytes} belong")
    array = jnp.asarray(np.frombuffer(raw.tobytes(), plain.dtype).reshape(plain.shape))
    is_key = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like)) if is_key else array
