# SPDX-License-Identifier: MIT
"""One TAP line for each check: `check("name", function)`; `finish()` gives the status."""
import asyncio
import inspect
import sys
import traceback

failures = 0


def check(name, function, *args):
    global failures
    try:
        result = function(*args)
        if inspect.iscoroutine(result):
            asyncio.run(result)
        print(f"ok - {name}", flush=True)
    except Exception:  # whatever a client's library raises is a result here
        failures += 1
        print(f"not ok - {name}", flush=True)
        for line in traceback.format_exc().splitlines()[-8:]:
            print(f"# {line}", flush=True)


def equal(got, wanted, what=""):
    assert got == wanted, f"{what}: got {got!r}, wanted {wanted!r}"


def raises(error, function, *args, **kwargs):
    """The error that the call ends with, of exactly this class."""
    try:
        function(*args, **kwargs)
    except Exception as e:
        assert type(e) is error, f"{type(e).__name__} instead of {error.__name__}: {e}"
        return e
    raise AssertionError(f"no {error.__name__}")


def finish():
    sys.exit(1 if failures else 0)
