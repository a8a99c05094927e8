"""A function, many things and a Dask scheduler in; the function's results, in the order of the things, out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from mp3model.files import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
HELP = "Dask: tcp://HOST:PORT of a cluster that sees the same folders, or local:N for N processes here"


@contextmanager
def client_of(scheduler: str) -> Iterator[Any]:
    """A client of a running cluster by its address, or of one of N processes on this machine by `local:N`.

    Raises:
        InputError: Dask is not installed, `local` has no number, or nobody answers at the address.
    """
    try:
        from dask.distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            f"--scheduler {scheduler}: {error.name} is not installed; pip install 'mp3model[cluster]'"
        ) from error
    kind, _, count = scheduler.partition(":")
    if kind == "local":
        if not count.isdigit() or not int(count):
            raise InputError(f"--scheduler {scheduler}: give the number of processes, as in local:2")
        with (
            LocalCluster(n_workers=int(count), threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"--scheduler {scheduler}: no cluster answers there ({reason})") from error
    with client:
        yield client


def results_of(scheduler: str, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Runs a function on each item on a cluster's workers; results come in the order of the items.

    Args:
        scheduler: See `client_of`.
        function: Can be pickled; whatever files it names must be there on every worker.
        items: Can be pickled.

    Raises:
        InputError: As `client_of`; also if workers die of an item, again and again.
    """
    with client_of(scheduler) as client:
        from dask.distributed import KilledWorker

        futures = client.map(function, list(items), pure=False)
        # From the front, so that a result leaves the cluster's memory once it has been taken.
        futures.reverse()
        while futures:
            try:
                yield futures.pop().result()
            except KilledWorker as error:
                raise InputError(
                    f"--scheduler {scheduler}: workers died ({error}); give them more memory, then run again: what is "
                    "finished is kept"
                ) from error
