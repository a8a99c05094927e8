"""Chart exports as they come (files, folders, zip, gz) in, coded chart rows with every rejected row counted out.

A file is known by its content: by what its header names, not by its own name. Only the old and new chart sites write
date and region into the file's name alone; there the name is read. Formats:

  spotifycharts.com CSV     Position, Track Name, Artist, Streams, URL; weekly files `A--B` end on B − 1
  charts.spotify.com CSV    rank, uri, artist_names, track_name, …, streams; the date is the week's last day
  chart table               the same columns with Date and Region, in any order and under several names
  full chart table          title, rank, date, artist, url, region, chart, trend, streams: daily; no viral50
  country table             Song, Artist, Date, Song ID, Streams, Rank: weekly, the date is the week's first day
  kworb CSV, kworb pages    see `data_prep.kworb`
  saved chart page          `table.chart-table` of the old site
  distributor or label export   date, ISRC, territory, quantity: full streams, no chart
  track table               track_id with title, artist, release_date, isrc or audio descriptors

A file goes through `sources` (its bytes), `tables` (its cells) or `pages`, `headers` (what its columns are), `rows`
(coded arrays), `periods` (days or weeks); `reading.read_source` takes it through all of them.
"""
