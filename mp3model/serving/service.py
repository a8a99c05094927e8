"""A model's folder in; what hears, forecasts and tells for all requests of a service, in threads and processes, out."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from starlette.datastructures import UploadFile

from mp3model.audio.bank import SAMPLE_RATE
from mp3model.files import InputError
from mp3model.serving.answers import as_json, forecast_answer, model_identity, records
from mp3model.serving.asked import Heard
from mp3model.serving.attribution import attributions
from mp3model.serving.decoding import Decoders
from mp3model.serving.forecaster import Forecaster
from mp3model.serving.guard import RETRY_SECONDS, Gate, Metrics
from mp3model.serving.jobs import Jobs
from mp3model.serving.requests import Asked, Limits, Refusal, refusal_of
from mp3model.serving.uploads import Sent
from mp3model.serving.work import Busy, Desk, Ears

_ATTRIBUTIONS_WAITING = 4


class Service:
    """A loaded model and all that answers with it; made once, then used by one event loop.

    Args:
        folder: Of the model.
        data: Dataset folder, or None.
        limits: See there.
        device: None is the GPU where there is one.

    Raises:
        InputError: If the model or the dataset cannot be used.
    """

    def __init__(
        self, folder: Path, data: Path | None = None, limits: Limits | None = None, device: str | None = None
    ) -> None:
        self.limits = limits or Limits()
        self.forecaster = Forecaster.from_pretrained(folder, device)
        self.data = data
        self.regions = self.forecaster.regions if data is None else self.forecaster.dataset(data).regions
        if not self.regions:
            raise InputError(f"model {folder}: remembers no region, as it was not trained by recipes/mp3.py; give data")
        self.identity = model_identity(folder)
        self.metrics = Metrics()
        self.gate = Gate(self.limits.waiting, "requests")
        self.attribution_gate = Gate(_ATTRIBUTIONS_WAITING, "songs")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Threads and processes, for as long as the service runs; nothing of them is left after it."""
        limits = self.limits
        self.decoders = Decoders(limits.decoders, limits.decode_megabytes, limits.decode_seconds)
        self.desk = Desk(Ears(self.forecaster.model), limits.waiting + limits.jobs_at_once)
        self.jobs = Jobs(limits)
        self.stopped = asyncio.Event()
        self._decoding = ThreadPoolExecutor(limits.decoders, "decode")
        self._attributing = ThreadPoolExecutor(1, "attribution")
        self._telling = ThreadPoolExecutor(1, "answer")
        try:
            yield
        finally:
            self.stopped.set()
            await self.jobs.close()
            self.decoders.close()
            for pool in (self._decoding, self._attributing, self._telling):
                pool.shutdown(cancel_futures=True)
            await asyncio.to_thread(self.desk.close)

    async def clip(self, file: UploadFile, label: str) -> np.ndarray:
        """The sound of a file.

        Raises:
            Refusal: If it holds none that is read.
        """

        def decoded() -> np.ndarray:
            # Read when its turn has come: files that wait for a decoder stay out of memory.
            return self.decoders.decode(file.file.read(), self.limits.audio_seconds, label)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoding, decoded)
        except InputError as error:
            raise refusal_of(error) from error

    async def forecasts(self, sent: Sent, number: int) -> list[bytes]:
        """One file's answers as JSON, one a release date.

        Raises:
            Refusal: If what is asked cannot be answered.
        """
        asked, label = sent.asked, sent.labels[number]
        if asked.artist is not None and asked.history is None and self.data is None:
            raise Refusal(422, "invalid_field", "artist: this service has no dataset to find artists in; give history")
        observed = asked.observed_of(label, sent.labels)
        clip = await self.clip(sent.files[number], label) if sent.files else None
        answers = []
        for date in asked.dates:
            found = await self._forecast(clip, asked, observed, date)
            tell = functools.partial(self._told, found, label, date, asked)
            answers.append(await asyncio.get_running_loop().run_in_executor(self._telling, tell))
            self.metrics.forecasts.inc()
        return answers

    async def effects(self, sent: Sent) -> bytes:
        """What each second of a file does to its forecast, as JSON.

        Raises:
            Refusal: If what is asked cannot be answered.
        """
        clip, asked = await self.clip(sent.files[0], sent.labels[0]), sent.asked
        seconds, most = len(clip) / SAMPLE_RATE, self.limits.attribution_seconds
        if seconds > most:
            raise Refusal(413, "audio_too_long", f"{sent.labels[0]}: lasts {seconds:.1f} s; the limit is {most:g} s")
        find = functools.partial(
            attributions,
            self.forecaster,
            Heard(clip),
            asked.regions,
            asked.dates[0],
            samples=asked.samples,
            seed=asked.seed,
            data=self.data,
        )
        try:
            table = await asyncio.get_running_loop().run_in_executor(self._attributing, find)
        except InputError as error:
            raise refusal_of(error) from error
        told = {"track_id": sent.labels[0], "seconds": int(table["second"].max()) + 1, "effects": records(table)}
        return as_json(told | {"model": self.identity})

    def about(self) -> dict[str, Any]:
        """What `/v1/model` tells."""
        config, catalogue = self.forecaster.model.config, self.forecaster.catalogue
        hears = self.forecaster.model.mp2 is not None
        return self.identity | {
            "parameters": sum(weight.numel() for weight in self.forecaster.model.parameters()),
            "frequency": config.frequency,
            "horizon": config.horizon,
            "hears": hears,
            "heard_seconds": config.samples / SAMPLE_RATE if hears else None,
            "covariates": list(config.covariates),
            "descriptors": list(config.descriptors),
            "catalogue_songs": 0 if catalogue is None else len(catalogue.songs),
            "dataset": self.data is not None,
            "limits": asdict(self.limits),
        }

    def about_regions(self) -> dict[str, Any]:
        """What `/v1/regions` tells."""
        stored, trained = self.forecaster.model.config.region_states or {}, self.forecaster.model.config.regions
        return {
            "regions": [
                {
                    "region": region,
                    "trained": region in trained,
                    "last_chart": stored[region]["date"] if region in stored else None,
                    "floor": stored[region]["floor"] if region in stored else None,
                }
                for region in self.regions
            ]
        }

    async def _forecast(
        self, clip: np.ndarray | None, asked: Asked, observed: pd.DataFrame | None, date: str | None
    ) -> Any:
        most = self.forecaster.model.config.horizon

        def work(heard: Heard | None) -> Any:
            return self.forecaster.forecast(
                heard,
                self.regions if asked.regions is None else asked.regions,
                date,
                observed,
                asked.samples,
                asked.history,
                None if asked.descriptors is None else pd.DataFrame([asked.descriptors]),
                self.data,
                artist=asked.artist,
                seed=asked.seed,
                horizon=None if asked.horizon is None else min(asked.horizon, most),
            )

        try:
            return await asyncio.wrap_future(self._submitted(clip, work))
        except InputError as error:
            raise refusal_of(error) from error

    def _submitted(self, clip: np.ndarray | None, work: Callable[[Heard | None], Any]) -> Future[Any]:
        try:
            return self.desk.submit(clip, work)
        except Busy as error:
            raise Refusal(503, "busy", f"{error}; come again later", RETRY_SECONDS) from error

    def _told(self, found: Any, label: str, date: str | None, asked: Asked) -> bytes:
        most = self.forecaster.model.config.horizon
        flags = []
        if asked.horizon is not None and asked.horizon > most:
            flags.append(("horizon_cut", f"{asked.horizon} periods were asked for; the model's curves have {most}"))
        hidden = None if self.data is None else str(self.data)
        return as_json(forecast_answer(found, label, date, asked.milestones, asked.tops, self.identity, flags, hidden))
