"""Objects of a store in object storage: S3, or a server that speaks its protocol. The only import of fsspec and s3fs.

A write puts a whole object, and may be conditional: only where there is none, or where it is still the one that was read. So
one object, the root, switches a store from one version to the next, and another, the lock, belongs to one writer (claims.py).
Nothing is renamed, and no reader can be seen: what a version no longer names stays for KEEP seconds by the server's clock.
Credentials come from the environment or the files of AWS's tools, and no message has any.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

from patchcli.errors import InputError, StoreError

KEEP = 86_400.0  # a day
REPLACED = ".replaced/"  # has an empty object for each part that no version names, as old as that is known
S3 = "s3://"
OPTIONS = {"use_listings_cache": False, "max_concurrency": 1}  # no stale listing, and one request an object
LOST = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "404", "409", "412"}  # a condition that did not hold
LIBRARIES = ("aiobotocore", "aiohttp", "botocore", "fsspec", "s3fs")


def checked(url: str) -> str:
    """A URL of a store. Raises InputError for one with credentials."""
    if "@" in urlsplit(url).netloc:
        masked = f"{urlsplit(url).scheme}://***@{urlsplit(url).netloc.rpartition('@')[2]}{urlsplit(url).path}"
        advice = "leave them out; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise InputError("credentials in a URL end up in logs", parameter="store", subject=masked, advice=advice)
    return url.rstrip("/")


def options(url: str) -> dict[str, Any]:
    """What the file system of a URL is opened with."""
    return OPTIONS if url.startswith(S3) else {}


def read(url: str, key: str) -> bytes | None:
    """An object, None if there is none."""
    with contextlib.suppress(FileNotFoundError), reaching(url):
        import fsspec

        system, place = fsspec.url_to_fs(url, **options(url))
        return cast(bytes, system.cat_file(f"{place}/{key}"))
    return None


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Within, storage is asked for something; its refusals and broken connections are StoreErrors, but for a missing object."""
    try:
        yield
    except (StoreError, FileNotFoundError) as error:
        if _code(error) == "NoSuchBucket":
            raise StoreError("no such bucket", subject=url, advice="make it, or name another with `store`") from None
        raise
    except Exception as error:
        if not isinstance(error, OSError | ValueError | ImportError) and type(error).__module__.split(".")[0] not in LIBRARIES:
            raise
        found, advice = _explained(url, error)
        raise StoreError(found, subject=url, advice=advice) from None


def _explained(url: str, error: Exception) -> tuple[str, str]:
    """What went wrong, and what to do. The libraries' own words are left out: they may name keys, or an endpoint with one."""
    name, code = type(error).__name__, _code(error)
    if isinstance(error, ImportError):
        name = "s3fs" if url.startswith(S3) else "the library of fsspec for such URLs"
        return f"needs {name}", "run: pip install 'patchcli[s3]'" if url.startswith(S3) else "install it, or use s3://"
    if "Credential" in name or "Profile" in name or "Token" in name:
        return f"no usable credentials ({name})", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if isinstance(error, PermissionError):
        return f"no permission ({code or name})", "check the credentials, and what the bucket's policy allows them"
    if code:
        return f"the server refuses this ({code})", "check bucket, region and AWS_ENDPOINT_URL"
    if isinstance(error, ValueError) or "Validation" in name:
        return f"cannot be opened ({name})", "expected s3://bucket/key.zarr, and a URL in AWS_ENDPOINT_URL if that is set"
    return f"the connection failed ({name})", "when the server answers, run this again: finished work is kept"


def _code(error: BaseException | None) -> str:
    """The server's code for an error, "" if it comes from elsewhere."""
    while error is not None:
        if isinstance(response := getattr(error, "response", None), dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


class Objects:
    """The objects below a URL of S3."""

    def __init__(self, url: str) -> None:
        if not url.startswith(S3):
            raise StoreError("can be read only", subject=url, expected="a folder or s3://bucket/key.zarr to write to")
        self.url = url
        self._bucket, _, key = url.removeprefix(S3).partition("/")
        self._prefix = f"{key}/" if key else ""

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        import s3fs

        return cast(dict[str, Any], s3fs.S3FileSystem(**OPTIONS).call_s3(method, Bucket=self._bucket, **arguments))

    def put(self, key: str, content: bytes, **condition: str) -> str | None:
        """Write an object; its tag, or None if a condition (IfNoneMatch, IfMatch) did not hold.

        Under a condition, the content is one that nobody else writes: when an answer was lost and the write repeated, what is
        there tells whose it is.
        """
        with reaching(self.url):
            try:
                return cast(str, self._call("put_object", Key=self._prefix + key, Body=content, **condition)["ETag"])
            except OSError as error:
                if not condition or _code(error) not in LOST:
                    raise
        tag = self.state(key)[0]
        return tag if read(self.url, key) == content else None

    def state(self, key: str) -> tuple[str | None, float]:
        """The tag of an object, None if there is none, and the seconds since it was written, by the server's clock."""
        with contextlib.suppress(FileNotFoundError), reaching(self.url):
            answer = self._call("head_object", Key=self._prefix + key)
            return answer["ETag"], _now(answer) - answer["LastModified"].timestamp()
        return None, 0.0

    def children(self, below: str = "") -> dict[str, float]:
        """Names directly below the URL, or below one of them: folders end in a slash; of objects the seconds as in `state`."""
        found: dict[str, float] = {}
        prefix, more = self._prefix + below, dict[str, str]()
        with reaching(self.url):
            while True:
                page = self._call("list_objects_v2", Prefix=prefix, Delimiter="/", **more)
                found |= {each["Prefix"].removeprefix(prefix): 0.0 for each in page.get("CommonPrefixes", ())}
                for each in page.get("Contents", ()):
                    found[each["Key"].removeprefix(prefix)] = _now(page) - each["LastModified"].timestamp()
                if not page.get("IsTruncated"):
                    return found
                more = {"ContinuationToken": page["NextContinuationToken"]}

    def remove(self, name: str) -> None:
        """Remove an object, or a folder with all that is below it."""
        with contextlib.suppress(FileNotFoundError), reaching(self.url):
            if not name.endswith("/"):
                self._call("delete_object", Key=self._prefix + name)
                return
            import s3fs

            s3fs.S3FileSystem(**OPTIONS).rm(f"{self._bucket}/{self._prefix}{name}".rstrip("/"), recursive=True)

    def sweep(self, unnamed: set[str]) -> None:
        """Remove the parts that no version names, and have not been named for KEEP seconds."""
        known = self.children(REPLACED)
        for name in unnamed - known.keys():
            self.put(REPLACED + name, b"")
        for name, seconds in known.items():
            if name in unnamed and seconds > KEEP:
                self.remove(f"{name}/")
            if name not in unnamed or seconds > KEEP:
                self.remove(REPLACED + name)


def _now(answer: dict[str, Any]) -> float:
    """The server's time when it answered."""
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
