"""Files that were damaged or made to harm, and writes that go wrong."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import tracemalloc
import zlib

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.artifact import ArtifactError, container, inspect, load, manifest, save
from jaxcompress.prune.masked import Masked

CODERS = ["zstd", "constriction"]
ROW = np.random.default_rng(0).standard_normal((12, 9)).astype(np.float32)
TREE = {"w": Masked.create(jnp.asarray(ROW), jnp.asarray(ROW > 0.5)), "b": jnp.arange(5), "c": [jnp.uint8(3), 2.5]}


def forge(path, described, streams=b""):
    """A file with a good checksum and whatever manifest."""
    text = described if isinstance(described, bytes) else manifest.encode(described)
    path.write_bytes(b"".join(container.seal(text, [streams])))
    return path


def parts(path):
    """Manifest and streams of a good file."""
    with container.open_checked(path) as (stored, file, offset, _):
        file.seek(offset)
        return manifest.decode(stored), file.read()


@pytest.fixture(scope="module", params=CODERS)
def good(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / request.param
    save(path, TREE, coder=request.param, recipe={"stages": [1]}, meta="m")
    return path


def test_every_flipped_bit_is_seen(good, tmp_path):
    """Each byte once with one bit flipped: 8 bytes of BLAKE2b cover all of them."""
    raw = good.read_bytes()
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1 << (position % 8)
        (tmp_path / "bad").write_bytes(changed)
        with pytest.raises(ArtifactError):
            load(tmp_path / "bad")


@hypothesis.settings(max_examples=50, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=st.data())
def test_cut_grown_and_overwritten_files_are_seen(good, tmp_path, data):
    raw = good.read_bytes()
    start = data.draw(st.integers(0, len(raw) - 1))
    stop = data.draw(st.integers(start, len(raw)))
    changed = raw[:start] + data.draw(st.binary(max_size=8)) + raw[stop:]
    (tmp_path / "bad").write_bytes(changed)
    if changed != raw:
        with pytest.raises(ArtifactError):
            load(tmp_path / "bad")
        with pytest.raises(ArtifactError):
            inspect(tmp_path / "bad")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no jaxcompress artifact"),
        (b"PK\x03\x04 something else", "no jaxcompress artifact"),
        (b"JXC", "cut short"),
        (b"JXC\x01\x00\x00", "cut short"),
        (b"JXC\x02" + b"\x00" * 20, "version 2, this release reads version 1; install"),
        (b"JXC\x01" + b"\x00" * 20, "damaged or cut short"),
    ],
)
def test_the_error_says_what_it_is(raw, words, tmp_path):
    (tmp_path / "bad").write_bytes(raw)
    with pytest.raises(ArtifactError, match=words):
        load(tmp_path / "bad")


def test_what_is_no_file(tmp_path):
    with pytest.raises(ArtifactError, match="not a regular file"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")
    with pytest.raises(ArtifactError, match="is a folder"):
        save(tmp_path, TREE)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="not a regular file"):
        load(tmp_path / "pipe")


def changes():
    """Manifests that lie, as (name, change of a good manifest); the streams stay."""
    huge = 10**15

    def put(key, value):
        return lambda m: {**m, key: value}

    return {
        "no tree": lambda m: {k: v for k, v in m.items() if k != "t"},
        "no versions": lambda m: {k: v for k, v in m.items() if k != "v"},
        "huge shape": put("s", f"{huge},{huge}" + ";5" * 3),
        "huge axis count": put("s", ",".join(["1"] * 40) + ";=;5;"),
        "negative shape": put("s", "-12,9;=;5;"),
        "words for shapes": put("s", "a;b;c;d"),
        "numbers for shapes": put("s", 5),
        "too few shapes": put("s", "12,9"),
        "other shapes": put("s", "12,8;=;5;"),
        "larger shapes": put("s", "12,9;=;50;"),
        "smaller shapes": put("s", "12,9;=;4;"),
        "unfitting mask": put("s", "12,9;9,12;5;"),
        "unknown coder": put("c", "rot13"),
        "unknown template": lambda m: {**m, "t": {"w": 77}},
        "negative template": lambda m: {**m, "t": {"w": -9}},
        "missing leaf": lambda m: {**m, "t": {"w": m["t"]["w"]}},
        "too many leaves": lambda m: {**m, "t": {**m["t"], "z": m["t"]["b"]}},
        "malformed node": lambda m: {**m, "t": {**m["t"], "z": ["q", 1]}},
        "unhashable key": lambda m: {**m, "t": ["d", [[1], 0]]},
        "object dtype": put("k", ["object", "object", "object"]),
        "unknown dtype": put("k", ["float99"] * 3),
        "unknown kind": put("k", [["nonsense", ["float32"]]] * 3),
        "too many fields": put("k", [["masked", ["float32"] * 5]] * 3),
        "fields of text": put("k", [["masked", "ab"]] * 3),
        "star without owner": put("k", ["float32*"] * 3),
        "unknown key kind": put("k", [{"key": "rot13"}] * 3),
        "static of a list": put("k", [["masked", ["float32", "bool"], [{"x": 1}]]] * 3),
        "templates of text": put("k", "abc"),
        "plan of text": put("p", "abc"),
        "plan of lies": put("p", ["bsp", "b", huge, huge]),
        "plan of negative sizes": put("p", [-5, 1]),
        "plan of too many bytes": put("p", [huge, 1]),
    }


@pytest.mark.parametrize("name", changes())
def test_a_lying_manifest_is_refused(good, name, tmp_path):
    described, streams = parts(good)
    bad = forge(tmp_path / "bad", changes()[name](described), streams)
    tracemalloc.start()
    with pytest.raises(ArtifactError):
        load(bad)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24  # NumPy reports to tracemalloc; nothing was allocated by the file's word


@hypothesis.settings(max_examples=30, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(streams=st.binary(max_size=300))
def test_any_streams_end_in_an_answer_or_an_error(good, tmp_path, streams):
    """With a good checksum over nonsense: an error, never a crash (that the nonsense means something is unlikely)."""
    described, _ = parts(good)
    with pytest.raises(ArtifactError):
        load(forge(tmp_path / "bad", described, streams))


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (b"\x00{}", "malformed|unknown coder"),
        (b"\x00[]", "no JSON object"),
        (b"\x00{", "cannot be read"),
        (b"\x00\xff\xff", "cannot be read"),
        (b"\x07{}", "unknown packing"),
        (b"", "unknown packing"),
        (b"\x01\xff\xff\xff", "cannot be read"),
        (b"\x00" + b"[" * 100_000, "cannot be read"),
        (b'\x00{"t":' + b'["l",' * 20_000 + b"0" + b"]" * 20_000 + b"}", "cannot be read|malformed"),
        (b'\x00{"t":' + b"9" * 5000 + b"}", "cannot be read"),
    ],
    ids=range(10),
)
def test_a_malformed_manifest_is_refused(stored, words, tmp_path):
    for read in (load, inspect):
        with pytest.raises(ArtifactError, match=words):
            read(forge(tmp_path / "bad", stored))


def test_bombs_are_refused(tmp_path):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    spaces = b"".join([packer.compress(b" " * (1 << 20)) for _ in range(66)] + [packer.flush()])
    assert len(spaces) < 1 << 17
    with pytest.raises(ArtifactError, match="does not end within"):
        load(forge(tmp_path / "bad", b"\x01" + spaces))
    body = b"\xff\xff\xff\x7f{}"
    digest = hashlib.blake2b(b"JXC\x01" + body, digest_size=8).digest()
    (tmp_path / "bad").write_bytes(b"JXC\x01" + digest + body)
    with pytest.raises(ArtifactError, match="declares a manifest of 268435455 bytes"):
        load(tmp_path / "bad")
    for coder in CODERS:  # honest, but larger than allowed
        save(tmp_path / "zeros", jnp.zeros(1 << 20), coder=coder)
        assert os.path.getsize(tmp_path / "zeros") < 2000
        with pytest.raises(ArtifactError, match="more than 1000000 bytes; if you trust it, raise max_bytes="):
            load(tmp_path / "zeros", max_bytes=10**6)
    described, streams = parts(tmp_path / "zeros")
    forge(tmp_path / "bad", {**described, "s": str(10**17)}, streams)
    with pytest.raises(ArtifactError, match="raise max_bytes="):
        load(tmp_path / "bad")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    save(path, TREE)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(path, {"w": jnp.zeros(3)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(TypeError):
        save(path, {"w": object()})
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "no" / "such" / "folder", TREE)


def test_permissions_and_links_are_kept(tmp_path):
    path, link = tmp_path / "a", tmp_path / "link"
    save(path, TREE)
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    path.chmod(0o640)
    link.symlink_to(path)
    save(link, {"w": jnp.zeros(3)})
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert load(path).params["w"].shape == (3,)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"f": print}, "'f' holds a builtin_function"),
        ({"o": np.array([object()])}, "dtype object"),
        ({"t": np.array(["text"])}, "dtype <U4"),
        ({(1, 2): jnp.ones(1)}, "key \\(1, 2\\)"),
        ({"d": np.array(["2020-01-01"], "datetime64[D]")}, "dtype datetime64"),
    ],
)
def test_what_cannot_be_stored_is_named(tree, words, tmp_path):
    with pytest.raises(TypeError, match=words):
        save(tmp_path / "a", tree)
    assert os.listdir(tmp_path) == []


def test_other_misuse_is_named(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(ValueError, match="share the path '1'"):
        save(path, {1: jnp.ones(1), "1": jnp.ones(1)})
    with pytest.raises(ValueError, match="coder='gzip' is unknown"):
        save(path, TREE, coder="gzip")
    with pytest.raises(ValueError, match=r"level=0 of zstd is outside 1\.\.22"):
        save(path, TREE, level=0)
    with pytest.raises(ValueError, match="level=3 belongs to coder='zstd'"):
        save(path, TREE, level=3, coder="constriction")
    with pytest.raises(TypeError, match="recipe= must be JSON-able"):
        save(path, TREE, recipe={"f": print})
    with pytest.raises(TypeError, match="'x' is traced; call save outside jit"):
        jax.jit(lambda x: save(path, {"x": x}))(jnp.ones(2))


def test_a_missing_coder_names_the_extra(tmp_path, monkeypatch):
    save(tmp_path / "a", TREE, coder="constriction")
    monkeypatch.setitem(sys.modules, "constriction", None)
    for call in (lambda: load(tmp_path / "a"), lambda: save(tmp_path / "b", TREE, coder="constriction")):
        with pytest.raises(ImportError, match=r"jaxcompress\[entropy\]"):
            call()
    assert os.listdir(tmp_path) == ["a"]
    assert inspect(tmp_path / "a")["coder"] == "constriction"


def test_reading_executes_nothing_and_needs_no_recipe_code(tmp_path):
    """In a fresh process, which knows the built-in kinds but nobody else's."""
    save(tmp_path / "a", TREE, recipe={"stage": "evil.Module"})
    code = "import sys; from jaxcompress.artifact import load; print(load(sys.argv[1]).params['w'].shape)"
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert run.stdout == "(12, 9)\n"
    assert json.dumps(inspect(tmp_path / "a"))
