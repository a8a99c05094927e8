"""Requests of several files in; jobs that work at them one by one, tell how far they are, and keep the answers, out."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mp3model.serving.requests import Limits, Refusal

KEEP_ALIVE_SECONDS = 15.0


@dataclass
class Job:
    """One request of several files.

    Attributes:
        labels: What the files are called.
        results: Each file's answer as JSON, None for one that is not done.
        state: `waiting`, `running` or `done`.
    """

    labels: list[str]
    identity: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    results: list[bytes | None] = field(default_factory=list)
    state: str = "waiting"
    task: asyncio.Task[None] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def size(self) -> int:
        """Bytes of its answers."""
        return sum(len(result) for result in self.results if result)

    def head(self) -> dict[str, Any]:
        """`id, state, progress`."""
        done = sum(result is not None for result in self.results)
        return {"id": self.identity, "state": self.state, "progress": {"done": done, "total": len(self.labels)}}

    def told(self) -> bytes:
        """All of it as JSON; files that are not done are left out of the results."""
        head = json.dumps(self.head())[:-1].encode()
        return head + b', "results": [' + b", ".join(result for result in self.results if result) + b"]}"

    def change(self, state: str | None = None) -> None:
        """Wakes whoever follows it."""
        self.state = state or self.state
        self._changed.set()
        self._changed = asyncio.Event()

    async def events(self, stopped: asyncio.Event) -> AsyncIterator[bytes]:
        """Server-sent events: `progress` at once and after each file, `done` at the end; a comment in long silences."""
        while not stopped.is_set():
            changed = self._changed
            name = "done" if self.state == "done" else "progress"
            yield f"event: {name}\ndata: {json.dumps(self.head())}\n\n".encode()
            if name == "done":
                return
            while not changed.is_set() and not stopped.is_set():
                waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(stopped.wait())]
                _, late = await asyncio.wait(waits, timeout=KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for wait in late:
                    wait.cancel()
                if len(late) == len(waits):
                    yield b": still there\n\n"


class Jobs:
    """The jobs of one service, in the order of their coming.

    Args:
        limits: How many are kept, with how many bytes of answers, and how many are at work at once.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: dict[str, Job] = {}
        self._turns = asyncio.Semaphore(limits.jobs_at_once)

    def __len__(self) -> int:
        return len(self._jobs)

    def check_room(self) -> None:
        """Refuses where no further job can be taken.

        Raises:
            Refusal: 503.
        """
        if sum(job.state != "done" for job in self._jobs.values()) >= self._limits.jobs:
            raise Refusal(503, "too_many_jobs", f"{self._limits.jobs} jobs wait already; come again later", 30)

    def start(self, labels: list[str], work: Callable[[int], Awaitable[bytes]], finish: Callable[[], None]) -> Job:
        """A new job.

        Args:
            labels: Of its files.
            work: File's number → its answer as JSON.
            finish: Called once at the end, however it ends.

        Raises:
            Refusal: If no further job can be taken.
        """
        self.check_room()
        job = Job(labels, results=[None] * len(labels))
        self._jobs[job.identity] = job
        self._forget_old()
        job.task = asyncio.create_task(self._run(job, work))
        # A callback, as a task that is stopped before its first step runs no `finally`.
        job.task.add_done_callback(lambda _: finish())
        return job

    def get(self, identity: str) -> Job:
        """The job of that name.

        Raises:
            Refusal: 404.
        """
        if identity not in self._jobs:
            raise Refusal(404, "no_such_job", "no such job; it is done and forgotten, or never was")
        return self._jobs[identity]

    async def remove(self, identity: str) -> None:
        """Stops a job and forgets it.

        Raises:
            Refusal: 404.
        """
        job = self.get(identity)
        del self._jobs[identity]
        await _stopped(job)
        job.change("done")

    async def close(self) -> None:
        """Stops all."""
        for identity in list(self._jobs):
            await self.remove(identity)

    async def _run(self, job: Job, work: Callable[[int], Awaitable[bytes]]) -> None:
        async with self._turns:
            job.change("running")
            for number in range(len(job.labels)):
                job.results[number] = await work(number)
                job.change()
        job.change("done")
        self._forget_old()

    def _forget_old(self) -> None:
        done = [job for job in self._jobs.values() if job.state == "done"]
        size = sum(job.size for job in self._jobs.values())
        for job in done:
            if len(self._jobs) <= self._limits.jobs and size <= self._limits.job_bytes:
                return
            size -= job.size
            del self._jobs[job.identity]


async def _stopped(job: Job) -> None:
    if job.task is not None:
        job.task.cancel()
        with suppress(asyncio.CancelledError):
            await job.task
