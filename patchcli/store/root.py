"""The root's metadata: one small object, written last, that names every part of a version.

attrs.patchcli: format_version, revision, plain, versions, dataset, parts {kind: {name, sha256}}, sha256 (of all of these)
"""

import contextlib
import hashlib
import json
import uuid
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from patchcli import files
from patchcli.errors import DamagedError, StoreError
from patchcli.store.attributes import from_stored, to_stored
from patchcli.store.images import Source
from patchcli.store.objects import Objects
from patchcli.store.parts import METADATA, Attributes, _fsync, no_store, read_object

FORMAT_VERSION = 1
REMAKE = "make the store again, or restore a copy"
LIBRARIES = ("patchcli", "torch", "zarr", "numpy")


@dataclass(frozen=True)
class Named:
    """A part of a version: its folder, and the sha256 of its metadata."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Root:
    """One version of a store."""

    dataset: Source
    parts: dict[str, Named]  # by kind
    versions: dict[str, str]  # of the libraries that made the store
    revision: str  # another for each version; "" before the first
    plain: bool  # whether the first part of a kind is the first that the store ever had

    @classmethod
    def new(cls, dataset: Source, parts: dict[str, Named], revision: str, plain: bool) -> "Root":
        """A version that the installed libraries make, to replace `revision`."""
        return cls(dataset, parts, {name: version(name) for name in LIBRARIES}, revision, plain)

    @classmethod
    def read(cls, path: Path | str) -> "Root":
        """The present version. Raises StoreError if there is no store, or it is damaged or of another format."""
        content = read_object(path, METADATA)
        if content is None:
            raise no_store(path)
        return cls._of(content, path)

    @classmethod
    def present(cls, path: Path | str) -> "Root | None":
        """The same, None if there is none that makes sense."""
        if (content := read_object(path, METADATA)) is not None:
            with contextlib.suppress(StoreError):
                return cls._of(content, path)
        return None

    @classmethod
    def _of(cls, content: bytes, path: Path | str) -> "Root":
        try:
            whole = json.loads(content)
            stored = whole["attributes"]["patchcli"] if isinstance(whole, dict) and "attributes" in whole else {}
            stored = dict(stored) if isinstance(stored, dict) else {}
        except (KeyError, TypeError):
            stored = {}
        except ValueError as error:
            raise DamagedError(f"damaged ({METADATA}: {error})", subject=path, advice=REMAKE) from None
        format_version = stored.get("format_version")
        sealed = stored.pop("sha256", None) == _digest(stored)
        if format_version != FORMAT_VERSION or type(format_version) is not int:
            expected = f"a patchcli store of format {FORMAT_VERSION}"
            other = str(format_version or "another Zarr group")
            raise StoreError(other, subject=path, expected=expected, advice="name another with `store`")
        if "revision" not in stored:
            advice = "make it again: `train(data, overwrite)`"
            raise StoreError("one of an earlier patchcli", subject=path, expected="a store with checksums", advice=advice)
        if not sealed:
            raise DamagedError(f"damaged ({METADATA} differs from its sha256)", subject=path, advice=REMAKE)
        try:
            return from_stored(cls, stored)
        except ValueError as error:
            raise DamagedError(f"damaged ({error})", subject=path, advice=REMAKE) from None

    def write(self, path: Path | str) -> "Root":
        """Make this the store's version: the switch. Returns it with its revision.

        Raises StoreError if the present version is another than the one that this replaces.
        """
        changed = StoreError("another process has written to it meanwhile", subject=path, advice="run this again")
        tag = Objects(path).state(METADATA)[0] if isinstance(path, str) else None
        before = Root.present(path)
        if (before.revision if before else "") != self.revision:
            raise changed
        new = replace(self, revision=uuid.uuid4().hex)
        content: Attributes = {
            "format_version": FORMAT_VERSION,
            "revision": new.revision,
            "plain": new.plain,
            "versions": new.versions,
            "dataset": to_stored(new.dataset),
            "parts": {kind: asdict(named) for kind, named in new.parts.items()},
        }
        whole = {"attributes": {"patchcli": content | {"sha256": _digest(content)}}, "zarr_format": 3, "node_type": "group"}
        text = json.dumps(whole, indent=2)
        if isinstance(path, str):  # of two writers that come this far at once, one gets None
            condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
            if Objects(path).put(METADATA, text.encode(), **condition) is None:
                raise changed
            return new
        with files.replacing(path / METADATA) as beside:
            beside.write_text(text, encoding="utf-8")
            _fsync(beside)
        _fsync(path)
        return new


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
