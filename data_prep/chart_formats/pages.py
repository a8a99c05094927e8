"""A saved chart page or kworb page in; its rows, coded like those of tables, out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from data_prep.chart_formats.coded import Codes, NotAChartError, Options, SourceRows
from data_prep.chart_formats.headers import Plan
from data_prep.chart_formats.rows import read_table
from data_prep.chart_formats.sources import Source
from data_prep.chart_formats.tables import Block
from data_prep.kworb import Page, read_page
from data_prep.regions import region_in_name
from mp3model.files import InputError


def read_pages(source: Source, tracks: Codes, regions: Codes, options: Options) -> list[SourceRows]:
    """The charts of one page.

    Raises:
        NotAChartError: it is a page of something else.
        InputError: nothing tells its country.
    """
    with source.opened() as stream:
        text = stream.read().decode("utf-8", errors="replace")
    pages = read_page(text, source.name)
    if not pages:
        raise NotAChartError(f"{source.name}: is no chart page that is known; give chart or kworb pages")
    found = []
    for page in pages:
        plan = Plan(source, list(page.columns), page.format, kind=page.kind)
        plan.roles = {name: name for name in page.columns}
        plan.frequency, plan.date_means = page.frequency, page.date_means
        plan.fixed_region, plan.fixed_date = page.region, page.date
        if page.kind == "totals":
            found.append(_read_totals(plan, page, tracks, options))
            continue
        table = pa.table({name: pa.array(values, pa.string()) for name, values in page.columns.items()})
        rows = read_table(plan, iter([Block(table, 1)]), tracks, regions, options)
        for reason, texts in page.rejected.items():
            rows.read += len(texts)
            rows.reject(reason, len(texts), texts)
        found.append(rows)
    return found


def _read_totals(plan: Plan, page: Page, tracks: Codes, options: Options) -> SourceRows:
    region = page.region or region_in_name(plan.source.name) or options.region
    if region is None:
        raise InputError(f"{plan.source.name}: names no country; put it into the file's name or give --region")
    titles, artists, ids = (page.columns[name] for name in ("title", "artist", "id"))
    codes = tracks.numbers(ids)
    totals = [
        float(text.replace(",", "")) if text.replace(",", "").isdigit() else np.nan for text in page.columns["total"]
    ]
    rows = SourceRows(plan.source, page.format, "totals", read=len(codes))
    good = np.isfinite(totals)
    rows.reject("total is no number", int((~good).sum()), (page.columns["total"][i] for i in np.flatnonzero(~good)))
    rows.texts.append((codes, titles, artists, [None] * len(codes)))
    rows.info = pd.DataFrame({"track": codes[good], "region": region, "total": np.asarray(totals)[good]})
    return rows
