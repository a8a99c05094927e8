// What a person chooses in; requests to the API beside this page, and its answers in words, pictures and files, out.

import { LEVELS, PAPER, bars, comparison, fan, pageColours, png, readable, shortDate, small } from "./charts.js";

const by = (id) => document.getElementById(id);
const DAY = 86_400_000;
// Typing settles before it is sent.
const SETTLED = 450;
const FIRST_WEEKS = 4;

const state = {
  model: {}, period: "week", days: 7, horizon: 12, hears: true,
  files: [], address: null, base: null, weeks: FIRST_WEEKS, streams: new Map(),
  answer: null, track: null, asking: null, timer: null, seconds: new Map(), asked: null, key: null,
};

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const regionNames = new Intl.DisplayNames(["en"], { type: "region" });
function nameOf(region) {
  if (region === "GLOBAL") return "The world";
  try { return regionNames.of(region); } catch { return region; }
}

const iso = (day) => day.toISOString().slice(0, 10);
const spoken = (text) => new Date(`${text}T00:00:00Z`).toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const chosen = () => [...by("regions").querySelectorAll("input:checked")].map((box) => box.value);
// Sampled futures never make anything certain.
const share = (probability) => (probability === null ? "unknown" : `${probability < 0.01 ? "under 1" : probability > 0.99 ? "over 99" : Math.round(100 * probability)} %`);

// ---- what the page starts with

async function start() {
  try {
    const [model, regions] = await Promise.all([ask("v1/model"), ask("v1/regions")]);
    state.model = model;
    const frequency = model.frequency ?? "W";
    state.period = frequency === "D" ? "day" : "week";
    state.days = frequency === "D" ? 1 : 7;
    state.horizon = model.horizon ?? 12;
    state.hears = model.hears ?? true;
    const list = (Array.isArray(regions) ? regions : regions.regions).map((one) => (typeof one === "string" ? { region: one } : one));
    by("about").textContent = `${plural(state.horizon, state.period)} from the debut, in ${plural(list.length, "region")}, with honest uncertainty.` + (state.hears ? "" : " This model does not hear: it goes by date, artist and charts.");
    fillRegions(list.map((one) => one.region));
    fillDate(list);
    fillObserved();
    hush();
  } catch (error) {
    by("about").textContent = "";
    fail(error);
  }
}

// A service that others can reach may ask for a key, which is kept as long as the page is open.
function headers() {
  return state.key ? { "X-API-Key": state.key } : {};
}

async function ask(address) {
  const answer = await fetch(address, { headers: headers() });
  if (answer.status === 401) by("key-form").hidden = false;
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(complaint(content, answer.status));
  return content;
}

function complaint(content, status) {
  return content?.error?.message ?? `The server answered ${status}.`;
}

function fillRegions(regions) {
  const box = by("regions");
  const wanted = ["US", "GB"].filter((region) => regions.includes(region));
  const first = new Set(wanted.length ? wanted : regions.slice(0, 2));
  const sorted = regions.slice().sort((one, other) => (nameOf(one) < nameOf(other) ? -1 : 1));
  box.replaceChildren(...sorted.map((region) => {
    const check = make("input", { type: "checkbox", name: "regions", value: region, checked: first.has(region) });
    return make("label", { title: nameOf(region) }, check, make("span", { textContent: nameOf(region) }));
  }));
  countRegions();
}

function countRegions() {
  by("chosen").textContent = `${chosen().length} of ${by("regions").children.length} chosen`;
}

// The next Friday, when most songs come out; for a model of the past, the one after its last chart.
function fillDate(regions) {
  const ends = regions.map((one) => one.last_chart).filter(Boolean).sort();
  const last = ends.length ? new Date(`${String(ends.at(-1)).slice(0, 10)}T00:00:00Z`) : new Date();
  const today = new Date(`${iso(new Date())}T00:00:00Z`);
  const from = today - last > 365 * DAY ? last : today;
  const friday = new Date(from.getTime() + ((12 - from.getUTCDay()) % 7 || 7) * DAY);
  setBase(friday);
}

function setBase(day) {
  state.base = day;
  by("release").value = iso(day);
  by("move").value = 0;
  showMoved();
}

function showMoved() {
  const by_ = Number(by("move").value);
  const moved = by_ === 0 ? "" : `, ${plural(Math.abs(by_), "week")} ${by_ < 0 ? "earlier" : "later"}`;
  by("moved").textContent = by("release").value ? `${spoken(by("release").value)}${moved}` : "No date";
}

// ---- observed streams, a row a period, a column a region

function fillObserved() {
  const regions = chosen();
  const columns = Array.from({ length: Math.min(state.weeks, state.horizon - 1) }, (_, at) => at);
  const label = (at) => `${state.period[0].toUpperCase()}${state.period.slice(1)} ${at}`;
  const head = make("tr", {}, make("td"), ...regions.map((region) => make("th", { scope: "col", className: "number", textContent: region, title: nameOf(region) })));
  const rows = columns.map((at) => make("tr", {}, make("th", { scope: "row", textContent: label(at) }), ...regions.map((region) => {
    const value = state.streams.get(region)?.[at] ?? "";
    const input = make("input", { type: "text", inputMode: "numeric", value, autocomplete: "off" });
    input.dataset.region = region;
    input.dataset.at = at;
    input.setAttribute("aria-label", `${nameOf(region)}, ${state.period} ${at}, streams`);
    return make("td", {}, input);
  })));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  by("observed").replaceChildren(regions.length ? table : make("p", { className: "quiet", textContent: "Choose a region first." }));
  by("more-weeks").hidden = state.weeks >= state.horizon - 1;
  by("more-weeks").textContent = `More ${state.period}s`;
}

// 1,200,000 and 1.2M are numbers that people type.
function numberOf(typed) {
  const found = /^([\d.,\s_']+)\s*([kmb]?)$/i.exec(typed.trim());
  if (!found) return null;
  const unit = { k: 1e3, m: 1e6, b: 1e9 }[found[2].toLowerCase()] ?? 1;
  const digits = unit === 1 ? found[1].replace(/[,\s_']/g, "") : found[1].replace(",", ".").replace(/[\s_']/g, "");
  const value = Number(digits) * unit;
  return digits !== "" && Number.isFinite(value) && value >= 0 ? value : null;
}

function remember(region, at, typed) {
  const row = state.streams.get(region) ?? [];
  row[at] = typed.trim();
  state.streams.set(region, row);
}

// Cells that a paste fills: one line or one column is a life from here on, a block has a region a column, and a table
// that names regions goes where it says.
function pasteInto(input, pasted) {
  const lines = pasted.trim().split(/\r?\n/).map((line) => line.split(/[\t;]|,(?!\d{3}(?:\D|$))/).map((cell) => cell.trim()));
  if (lines.length === 1 && lines[0].length === 1) return false;
  if (lines.some((cells) => /^[A-Za-z]{2}$|^GLOBAL$/.test(cells[0]))) return takeTable(pasted);
  const regions = chosen();
  const column = regions.indexOf(input.dataset.region), first = Number(input.dataset.at);
  lines.forEach((cells, down) => cells.forEach((cell, right) => {
    const region = lines.length === 1 ? input.dataset.region : regions[column + right];
    if (region && numberOf(cell) !== null) remember(region, first + (lines.length === 1 ? right : down), cell);
  }));
  widen();
  return true;
}

function takeTable(pasted) {
  const release = Date.parse(`${by("release").value}T00:00:00Z`);
  const left = [];
  let taken = 0;
  for (const line of pasted.trim().split(/\r?\n/)) {
    const cells = line.split(/[\t;,]/).map((cell) => cell.trim().replace(/^"|"$/g, ""));
    const region = (cells[0] ?? "").toUpperCase();
    const dated = /^\d{4}-\d{2}-\d{2}$/.test(cells[1] ?? "");
    const at = dated ? Math.floor((Date.parse(`${cells[1]}T00:00:00Z`) - release) / (DAY * state.days)) : Number(cells[1]);
    const box = by("regions").querySelector(`input[value="${CSS.escape(region)}"]`);
    const number = numberOf(cells[2] ?? "");
    if (box && Number.isInteger(at) && cells[1] !== "" && at >= 0 && at < state.horizon - 1 && number !== null) {
      box.checked = true;
      remember(region, at, cells[2]);
      taken += 1;
    } else if (line.trim() && !/^region\b/i.test(line.trim())) left.push(line.trim());
  }
  countRegions();
  widen();
  if (left.length) fail(new Error(`Not understood: ${left[0]}${left.length > 1 ? ` and ${left.length - 1} more` : ""}. Write region, ${state.period} or date, streams.`));
  return taken > 0;
}

function widen() {
  const used = Math.max(0, ...[...state.streams.values()].map((row) => row.length));
  state.weeks = Math.max(state.weeks, Math.min(used, state.horizon - 1));
  fillObserved();
}

function observedTable() {
  const rows = [];
  for (const region of chosen()) {
    (state.streams.get(region) ?? []).forEach((typed, at) => {
      const value = typed ? numberOf(typed) : null;
      if (value !== null && at < state.horizon - 1) rows.push({ region, at, value });
    });
  }
  return rows;
}

function checkTyped(input) {
  const wrong = input.value.trim() !== "" && numberOf(input.value) === null;
  input.setAttribute("aria-invalid", String(wrong));
  input.setCustomValidity(wrong ? "A number of streams" : "");
  if (wrong) fail(new Error(`${input.value} is no number of streams.`));
  return !wrong;
}

// ---- asking

function soon() {
  if (!state.asked) return;
  clearTimeout(state.timer);
  state.timer = setTimeout(forecast, SETTLED);
}

async function content() {
  const form = new FormData();
  for (const file of state.files) form.append("file", file, file.name);
  for (const region of chosen()) form.append("regions", region);
  if (by("release").value) form.append("release_date", by("release").value);
  const seen = observedTable();
  if (seen.length) form.append("observed", [`region,${state.period},streams`, ...seen.map((one) => `${one.region},${one.at},${one.value}`)].join("\n"));
  const milestones = by("milestones").value.split(/[,;]\s+|[;\s]+|,(?!\d{3}(?:\D|$))/).filter(Boolean).map(numberOf).filter((one) => one !== null && one >= 1);
  for (const milestone of milestones) form.append("milestones", milestone);
  if (by("history").files[0]) form.append("history", await by("history").files[0].text());
  form.append("samples", by("samples").value || "256");
  return form;
}

function send(form, signal) {
  // fetch does not tell how much was sent.
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", "v1/forecasts");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.responseType = "json";
    const large = state.files.reduce((sum, file) => sum + file.size, 0) > 0;
    request.upload.addEventListener("progress", (event) => {
      by("sending").hidden = !large || event.loaded === event.total;
      by("sent").value = event.lengthComputable ? (100 * event.loaded) / event.total : 0;
    });
    request.addEventListener("load", () => {
      if (request.status < 300) done({ status: request.status, content: request.response });
      else failed(new Error(complaint(request.response ?? {}, request.status)));
    });
    request.addEventListener("error", () => failed(new Error("The server cannot be reached.")));
    request.addEventListener("loadend", () => { by("sending").hidden = true; });
    signal.addEventListener("abort", () => { request.abort(); failed(new DOMException("stopped", "AbortError")); });
    request.send(form);
  });
}

async function finished(job, signal) {
  for (let wait = 250; ; wait = Math.min(2000, wait * 1.5)) {
    const now = await ask(`v1/jobs/${encodeURIComponent(job.id)}`);
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
    if (now.state === "done") return together(now.results);
    say(`Forecasting: ${now.progress.done} of ${now.progress.total} songs done`, true);
    await new Promise((done) => setTimeout(done, wait));
  }
}

// One answer of all songs of a job; files without usable sound are named beside it.
function together(results) {
  const whole = results.flatMap((one) => one.forecasts ?? []);
  const left = results.filter((one) => one.error).map((one) => `${one.track_id}: ${one.error.message}`);
  if (!whole.length) throw new Error(left.join("; "));
  const tables = ["curves", "popularity", "chances", "comparables", "flags"];
  const joined = Object.fromEntries(tables.map((name) => [name, whole.flatMap((one) => one[name])]));
  return { ...joined, model: whole[0].model, left };
}

async function forecast() {
  if (!chosen().length) return fail(new Error("Choose one region at least."));
  if (state.files.length > 1 && observedTable().length) return fail(new Error("Streams so far are of one song: choose a single file, or clear them."));
  if (!by("release").value && !observedTable().length) return fail(new Error("Give a release date."));
  state.asking?.abort();
  const asking = new AbortController();
  state.asking = asking;
  state.asked = { regions: chosen(), release: by("release").value };
  hush();
  say("Forecasting", true);
  try {
    const sent = await send(await content(), asking.signal);
    const answer = sent.status === 202 ? await finished(sent.content, asking.signal) : sent.content;
    if (asking.signal.aborted) return;
    show(answer);
    if (answer.left?.length) tell(`Left out: ${answer.left.join("; ")}`);
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  }
}

function say(message, busy = false) {
  by("status").textContent = message;
  by("status").classList.toggle("busy", busy);
}

function hush() {
  by("error").hidden = true;
  by("error").textContent = "";
}

function tell(message) {
  by("error").textContent = message;
  by("error").hidden = false;
}

function fail(error) {
  tell(error.message);
  say(state.answer ? "The forecast below is the one before this mistake." : "No forecast yet.");
}

// ---- showing

function show(answer) {
  state.answer = answer;
  const tracks = [...new Set(answer.curves.map((row) => row.track_id))];
  if (!tracks.includes(state.track)) state.track = tracks[0];
  by("track").replaceChildren(...tracks.map((track) => make("option", { value: track, textContent: track, selected: track === state.track })));
  by("track-box").hidden = tracks.length < 2;
  by("found").hidden = false;
  showTrack();
}

const own = (rows) => (rows ?? []).filter((row) => row.track_id === state.track);
const shownRegions = () => [...new Set(own(state.answer.curves).map((row) => row.region))];
const curveOf = (region) => own(state.answer.curves).filter((row) => row.region === region);
const metric = (region, name) => own(state.answer.popularity).find((row) => row.region === region && row.metric === name);

function showTrack() {
  play();
  const regions = shownRegions();
  for (const id of ["metrics-region", "seconds-region"]) {
    const before = by(id).value;
    by(id).replaceChildren(...regions.map((region) => make("option", { value: region, textContent: nameOf(region), selected: region === before })));
  }
  const dates = own(state.answer.curves).map((row) => row.date.slice(0, 10)).sort();
  const totals = regions.slice(0, 4).map((region) => `${nameOf(region)} about ${readable(metric(region, "sum")["0.5"])}`);
  const more = regions.length > 4 ? ` and ${plural(regions.length - 4, "more region")}` : "";
  say(`${state.track}, ${shortDate(dates[0], true)} to ${shortDate(dates.at(-1), true)}: ${totals.join(", ")}${more}.`);
  // On a phone the form hides the fans: what it changes stays in sight, with a way there.
  const sums = regions.slice(0, 3).map((region) => `${region} ${readable(metric(region, "sum")["0.5"])}`);
  by("jump").textContent = `${sums.join(" · ")}: see the fan`;
  by("jump").hidden = false;
  by("words").replaceChildren(...regions.map((region) => make("li", { textContent: plain(region) })));
  showFlags();
  draw();
  showMetrics();
  showChances(regions);
  showSeconds();
}

function plain(region) {
  const total = metric(region, "sum"), debut = metric(region, "debut"), length = metric(region, "length");
  const count = curveOf(region).length;
  const parts = [`${nameOf(region)}: about ${readable(total["0.5"])} streams in ${plural(count, state.period)}; 8 of 10 futures lie between ${readable(total["0.1"])} and ${readable(total["0.9"])}`];
  if (debut) parts.push(`the first ${state.period} brings about ${readable(debut["0.5"])}`);
  if (length) parts.push(`it stays on the chart for ${spread(length)} ${state.period}s`);
  const place = own(state.answer.chances).find((row) => row.region === region && row.question === "percentile");
  if (place && place["0.5"] !== null) parts.push(`that is more than ${Math.round(place["0.5"])} % of the songs the model knows there`);
  return `${parts.join("; ")}.`;
}

function spread(row) {
  const [low, high] = [Math.round(row["0.1"]), Math.round(row["0.9"])];
  return low === high ? `${low}` : `${low} to ${high}`;
}

const FLAGS = {
  speech: "This sounds like speech", silence: "Much of it is silent", clipping: "The recording is distorted",
  short_audio: "The clip is short", no_audio: "The song was not heard", audio_unused: "This model does not hear",
  unlike_training: "Unlike all that the model knows", region_untrained: "A region it knows nothing of",
  floors_old: "The charts it knows are old", floors_later: "The charts it knows are later than this date",
  artist_unknown: "The artist is unknown here", no_features: "Descriptors are missing",
  rows_left_out: "Some rows were left out", nothing_left: "Nothing is left to forecast",
};

function showFlags() {
  const grouped = new Map();
  for (const flag of own(state.answer.flags)) {
    const key = `${flag.code} ${flag.reason}`;
    const found = grouped.get(key) ?? { ...flag, regions: [] };
    if (flag.region) found.regions.push(nameOf(flag.region));
    grouped.set(key, found);
  }
  const items = [...grouped.values()].map((flag) => {
    const where = flag.regions.length ? ` (${flag.regions.join(", ")})` : "";
    return make("li", {}, make("strong", { textContent: `${FLAGS[flag.code] ?? flag.code}${where}. ` }), `${flag.reason[0].toUpperCase()}${flag.reason.slice(1)}.`);
  });
  by("flags").replaceChildren(...(items.length ? items : [make("li", { className: "none", textContent: "Nothing unusual was found in the song or the question." })]));
}

// Periods that are known: a value was given, and all futures agree on it.
function knownOf(region, rows) {
  const given = state.streams.get(region) ?? [];
  return new Set(rows.flatMap((row, at) => (given[at] && row["0.1"] === row["0.9"] ? [at] : [])));
}

function alikeOf(region) {
  const songs = new Map();
  for (const row of own(state.answer.comparables)) {
    if (row.region !== region) continue;
    const song = songs.get(row.song_id) ?? { ...row, curve: [] };
    song.curve[row[state.period]] = row.streams;
    songs.set(row.song_id, song);
  }
  return [...songs.values()].sort((one, other) => one.place - other.place);
}

function fanOf(region, colours, width) {
  const rows = curveOf(region);
  const total = metric(region, "sum");
  const title = `${nameOf(region)}: ${readable(total["0.5"])} (${readable(total["0.1"])} to ${readable(total["0.9"])})`;
  const alike = alikeOf(region).slice(0, 3).map((song) => song.curve);
  return { rows, title, ...fan(rows, { known: knownOf(region, rows), alike, colours, width, title: `Fan of possible futures. ${plain(region)}` }) };
}

function draw() {
  if (!state.answer) return;
  const colours = pageColours(), regions = shownRegions();
  const box = by("fans");
  const columns = regions.length > 1 && box.clientWidth > 690 ? 2 : 1;
  const width = Math.max(280, Math.floor((box.clientWidth - 20 * (columns - 1)) / columns));
  const before = new Map([...box.querySelectorAll("input[type=range]")].map((input) => [input.dataset.region, input.value]));
  box.replaceChildren(...regions.map((region) => figure(region, fanOf(region, colours, width), before.get(region))));
  by("legend-alike").hidden = !own(state.answer.comparables).length;
  by("compare-card").hidden = regions.length < 2;
  const totals = regions.map((region) => metric(region, "sum")).sort((one, other) => other["0.5"] - one["0.5"]);
  by("compare").replaceChildren(comparison(totals, { colours, names: nameOf, width: Math.max(280, by("compare").clientWidth || width) }));
  showAlike(regions, colours);
}

function figure(region, drawn, before) {
  const { rows, svg, title } = drawn;
  const id = `read-${region}`;
  const reader = make("input", { type: "range", id, min: 0, max: rows.length - 1, value: before ?? 0 });
  reader.dataset.region = region;
  const told = make("output");
  told.setAttribute("for", id);
  const read = (shown) => {
    const row = rows[Number(reader.value)];
    if (shown) drawn.show(Number(reader.value));
    const known = row["0.1"] === row["0.9"];
    told.textContent = `${state.period} ${reader.value}, to ${shortDate(row.date, true)}: ${readable(row["0.5"])}${known ? "" : ` (${readable(row["0.1"])} to ${readable(row["0.9"])})`}`;
  };
  reader.addEventListener("input", () => read(true));
  svg.addEventListener("pointermove", (event) => {
    const place = svg.getBoundingClientRect();
    reader.value = drawn.at((event.clientX - place.left) / place.width);
    read(true);
  });
  read(before !== undefined && before !== "0");
  const label = make("label", { textContent: `Read a ${state.period}` });
  label.htmlFor = id;
  return make("figure", {}, make("figcaption", { textContent: title }), svg, make("div", { className: "reader" }, label, reader, told));
}

const METRICS = {
  sum: "Streams in all", remaining: "Streams still to come", debut: "Streams in the first PERIOD", max: "Streams in the best PERIOD",
  peak_week: "PERIOD of the peak (0 is the first)", mean: "Streams in an average PERIOD", length: "PERIODs on the chart",
  half_life: "PERIODs until half of the peak", debut_rank: "Rank at the debut", std: "Swing from PERIOD to PERIOD",
  skewness: "Skewness of the curve", kurtosis: "Kurtosis of the curve",
};

function showMetrics() {
  const region = by("metrics-region").value;
  const rows = Object.keys(METRICS).map((name) => metric(region, name)).filter(Boolean);
  by("metrics").tBodies[0].replaceChildren(...rows.map((row) => {
    const name = METRICS[row.metric].replaceAll("PERIOD", state.period);
    const middle = row.metric === "debut_rank" && row["0.5"] !== null ? Math.round(row["0.5"]) : row["0.5"];
    const cells = [readable(middle), row["0.1"] === null ? "unknown" : `${readable(row["0.1"])} to ${readable(row["0.9"])}`];
    return make("tr", {}, make("th", { scope: "row", textContent: `${name[0].toUpperCase()}${name.slice(1)}` }), ...cells.map((cell) => make("td", { textContent: cell })));
  }));
}

function question(row) {
  if (row.question === "sum_above") return `More than ${readable(row.amount)} streams`;
  if (row.question === "top") return row.amount === 1 ? "Number one" : `In the top ${row.amount}`;
  return null;
}

function showChances(regions) {
  const rows = own(state.answer.chances);
  const labels = [...new Set(rows.map(question).filter(Boolean))];
  by("chances-card").hidden = !labels.length;
  const cell = (label, region) => {
    const found = rows.find((row) => row.region === region && question(row) === label);
    if (!found) return "";
    const when = rows.find((row) => row.region === region && row.amount === found.amount && row.question === `${state.period}s_to` && found.question === "sum_above");
    const middle = when?.["0.5"];
    return share(found.probability) + (middle === null || middle === undefined ? "" : `, by ${state.period} ${Math.round(middle)}`);
  };
  by("chances").tHead.replaceChildren(make("tr", {}, make("th", { scope: "col", textContent: "What" }), ...regions.map((region) => make("th", { scope: "col", textContent: nameOf(region) }))));
  by("chances").tBodies[0].replaceChildren(...labels.map((label) => make("tr", {}, make("th", { scope: "row", textContent: label }), ...regions.map((region) => make("td", { textContent: cell(label, region) })))));
}

function showAlike(regions, colours) {
  const songs = new Map();
  for (const region of regions) {
    for (const song of alikeOf(region)) songs.set(song.song_id, [...(songs.get(song.song_id) ?? []), { ...song, region }]);
  }
  const nearest = [...songs.values()].sort((one, other) => one[0].place - other[0].place);
  by("alike-card").hidden = !nearest.length;
  by("alike").replaceChildren(...nearest.map((lives) => {
    const [song] = lives;
    const name = [song.title, song.artist].filter(Boolean).join(" by ") || song.song_id;
    const parts = lives.flatMap((life) => {
      const total = life.curve.filter(Number.isFinite).reduce((sum, one) => sum + one, 0);
      const said = `${nameOf(life.region)} from ${shortDate(String(life.date), true)}: ${readable(total)} streams`;
      return [small(life.curve, curveOf(life.region), { colours, title: `${name} in ${nameOf(life.region)}: true curve over the forecast's band` }), make("span", { className: "quiet", textContent: said })];
    });
    return make("li", {}, make("strong", { textContent: name }), make("span", { className: "quiet", textContent: `distance ${Number(song.distance).toFixed(2)}` }), ...parts);
  }));
}

// ---- the player, and which seconds move the forecast

function currentFile() {
  return state.files.find((file) => file.name.replace(/\.[^.]+$/, "") === state.track) ?? state.files[0];
}

function play() {
  const file = currentFile();
  by("player-box").hidden = !file;
  if (!file || by("player").dataset.name === file.name) return;
  if (state.address) URL.revokeObjectURL(state.address);
  state.address = URL.createObjectURL(file);
  by("player").src = state.address;
  by("player").dataset.name = file.name;
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

function showSeconds() {
  const file = currentFile();
  by("seconds-box").hidden = true;
  by("find-seconds").hidden = !file || !state.hears;
  by("seconds-state").textContent = "";
  const found = file && state.seconds.get(secondsKey(file));
  if (found) drawSeconds(found);
}

const secondsKey = (file) => [file.name, file.size, file.lastModified, ...shownRegions()].join(" ");

// Asked for by a button, as the song is forecast once for each of its seconds.
async function findSeconds() {
  const file = currentFile(), key = secondsKey(file);
  const form = new FormData();
  form.append("file", file, file.name);
  for (const region of shownRegions()) form.append("regions", region);
  if (by("release").value) form.append("release_date", by("release").value);
  form.append("samples", "64");
  by("find-seconds").disabled = true;
  by("seconds-state").textContent = "Listening with one second silent after the other…";
  try {
    const answer = await fetch("v1/attributions", { method: "POST", body: form, headers: headers() });
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(complaint(told, answer.status));
    const effects = {};
    for (const row of told.effects) (effects[row.region] ??= [])[row.second] = row.effect;
    state.seconds.set(key, { seconds: Array.from({ length: told.seconds }, (_, at) => at), effects });
    if (key === secondsKey(currentFile())) showSeconds();
  } catch (error) {
    by("seconds-state").textContent = error.message;
  } finally {
    by("find-seconds").disabled = false;
  }
}

function drawSeconds(found) {
  state.shownSeconds = found;
  const effects = found.effects[by("seconds-region").value] ?? Object.values(found.effects)[0];
  if (!effects?.length) return;
  by("seconds-box").hidden = false;
  by("find-seconds").hidden = true;
  const starts = found.seconds, step = starts.length > 1 ? starts[1] - starts[0] : 1;
  const length = Math.max(starts.at(-1) + step, by("player").duration || 0);
  const svg = bars(starts, effects, { colours: pageColours(), length, width: Math.max(240, by("seconds").clientWidth) });
  svg.addEventListener("click", (event) => {
    const place = svg.getBoundingClientRect();
    seek(((event.clientX - place.left) / place.width) * length);
  });
  by("seconds").replaceChildren(svg);
  const strongest = effects.map((effect, at) => ({ effect, at })).sort((one, other) => Math.abs(other.effect) - Math.abs(one.effect)).slice(0, 3);
  by("seconds-note").textContent = `Bars up: this second raises the total in ${nameOf(by("seconds-region").value)}; down: it lowers it. Found by silencing one second after the other.`;
  by("seconds-list").replaceChildren(...strongest.map(({ effect, at }) => {
    const button = make("button", { type: "button", textContent: `${clock(starts[at])} ${effect >= 0 ? "raises" : "lowers"} it by ${percent(effect)}` });
    button.addEventListener("click", () => seek(starts[at], true));
    return make("li", {}, button);
  }));
}

// Effects are in log10 of streams.
function percent(effect) {
  const size = 100 * Math.abs(10 ** Math.abs(effect) - 1);
  return `${size < 10 ? size.toFixed(1) : Math.round(size)} %`;
}

function seek(seconds, playing = false) {
  by("player").currentTime = Math.max(0, seconds);
  if (playing) by("player").play().catch(() => {});
}

// ---- files to take away

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

const fileName = (suffix) => `${String(state.track).replace(/[^\p{L}\p{N}._-]+/gu, "_")}.${suffix}`;
// A cell that a spreadsheet would take for a formula is quoted as text.
function cell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "number" ? String(value) : String(value).replace(/^([=+\-@\t\r])/, "'$1");
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

function saveTable() {
  const names = ["track_id", "region", state.period, "date", "mean", ...LEVELS];
  const lines = state.answer.curves.map((row) => names.map((name) => cell(name === "date" ? row.date.slice(0, 10) : row[name])).join(","));
  save(new Blob([[names.join(","), ...lines, ""].join("\n")], { type: "text/csv" }), fileName("csv"));
}

async function savePicture() {
  const drawings = shownRegions().map((region) => fanOf(region, PAPER, 820)).map(({ title, svg }) => ({ title, svg }));
  save(await png(drawings, `${state.track}: streams a ${state.period}, given that it charts`), fileName("png"));
}

// ---- listening

function takeFiles(files) {
  if (!files.length) return;
  state.files = [...files];
  state.track = null;
  state.seconds.clear();
  play();
  forecast();
}

function listen() {
  by("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    state.key = by("key").value.trim();
    by("key-form").hidden = true;
    start();
  });
  by("asked").addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(state.timer); forecast().then(() => by("results").scrollIntoView({ block: "start" })); });
  by("file").addEventListener("change", () => takeFiles(by("file").files));
  const drop = by("drop");
  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  drop.addEventListener("drop", (event) => takeFiles(event.dataTransfer.files));
  by("regions").addEventListener("change", () => { countRegions(); fillObserved(); soon(); });
  for (const [id, on] of [["all", true], ["none", false]]) {
    by(id).addEventListener("click", () => {
      for (const box of by("regions").querySelectorAll("input")) box.checked = on;
      countRegions();
      fillObserved();
      if (on) soon();
    });
  }
  by("release").addEventListener("change", () => {
    if (!by("release").value) return showMoved();
    setBase(new Date(`${by("release").value}T00:00:00Z`));
    soon();
  });
  by("move").addEventListener("input", () => {
    by("release").value = iso(new Date(state.base.getTime() + Number(by("move").value) * 7 * DAY));
    showMoved();
    soon();
  });
  by("observed").addEventListener("input", ({ target }) => {
    remember(target.dataset.region, Number(target.dataset.at), target.value);
    if (checkTyped(target)) soon();
  });
  by("observed").addEventListener("paste", (event) => {
    if (event.target.dataset.region && pasteInto(event.target, event.clipboardData.getData("text"))) { event.preventDefault(); soon(); }
  });
  by("pasted").addEventListener("change", () => { if (takeTable(by("pasted").value)) { by("pasted").value = ""; soon(); } });
  by("more-weeks").addEventListener("click", () => { state.weeks = Math.min(state.weeks + FIRST_WEEKS, state.horizon - 1); fillObserved(); });
  by("clear-observed").addEventListener("click", () => { state.streams.clear(); fillObserved(); soon(); });
  for (const id of ["milestones", "history", "samples"]) by(id).addEventListener("change", soon);
  by("track").addEventListener("change", () => { state.track = by("track").value; showTrack(); });
  by("metrics-region").addEventListener("change", showMetrics);
  by("seconds-region").addEventListener("change", () => drawSeconds(state.shownSeconds));
  by("find-seconds").addEventListener("click", findSeconds);
  by("csv").addEventListener("click", saveTable);
  by("png").addEventListener("click", () => savePicture().catch(fail));
  by("json").addEventListener("click", () => save(new Blob([JSON.stringify(state.answer, null, 1)], { type: "application/json" }), fileName("json")));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let last = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== last) { last = innerWidth; redraw(); } });
}

function redraw() {
  draw();
  if (state.shownSeconds && !by("seconds-box").hidden) drawSeconds(state.shownSeconds);
}

listen();
start();
