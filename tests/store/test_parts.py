"""Arrays of a part on their way several at a time: all of them, or after an error or an interruption no more."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial

import pytest

from patchcli.store import parts

ITEMS = {str(number): number for number in range(100)}


def test_answers_have_the_order_of_the_items() -> None:
    under_way, most = set[int](), [0]

    async def halve(name: str, item: int) -> float:
        under_way.add(item)
        most[0] = max(most[0], len(under_way))
        await asyncio.sleep(0.001 * (item % 3))
        under_way.discard(item)
        return int(name) / 2

    assert list(parts._at_once(halve, ITEMS).items()) == [(name, item / 2) for name, item in ITEMS.items()]
    assert most == [parts.AT_ONCE]
    assert parts._at_once(halve, {}) == {}


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fill_the_disk() -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("fail", "error"), [(interrupt, KeyboardInterrupt), (terminate, SystemExit), (fill_the_disk, OSError)])
def test_nothing_is_on_its_way_afterwards(
    fail: Callable[[], None], error: type[BaseException], request: pytest.FixtureRequest
) -> None:
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: lambda *_: sys.exit(143)}
    for number, handler in handlers.items():  # SIGINT is ignored in a job in the background
        request.addfinalizer(partial(signal.signal, number, signal.signal(number, handler)))
    begun, ended = list[int](), list[int]()

    async def do(name: str, item: int) -> None:
        begun.append(item)
        if item == 20:
            fail()
        await asyncio.sleep(0.05)
        ended.append(item)

    with pytest.raises(error):
        parts._at_once(do, ITEMS)
    seen = len(begun), len(ended)
    time.sleep(0.2)
    assert seen == (len(begun), len(ended))
    assert len(begun) < 60 and len(begun) - len(ended) == (error is OSError)
