// Rows of a forecast in, SVG elements out; every colour is an attribute, so that a picture can leave the page whole.

const SVG = "http://www.w3.org/2000/svg";
const LEVELS = ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9"];
const FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

// On paper and in a saved picture; the page's own come from its style sheet.
export const PAPER = {
  card: "#ffffff", ink: "#15181d", quiet: "#4d5663", grid: "#e4e7ec", outer: "#bbd8ea", inner: "#7fb5d8",
  median: "#0072b2", seen: "#15181d", alike: "#6b7280", up: "#0072b2", down: "#b34e00",
};

export function pageColours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(Object.keys(PAPER).map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

export function node(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
export const readable = (number) => (number === null || !Number.isFinite(number) ? "unknown" : compact.format(number));

export function shortDate(text, year = false) {
  const day = new Date(`${text.slice(0, 10)}T00:00:00Z`);
  const how = { day: "numeric", month: "short", timeZone: "UTC", ...(year ? { year: "numeric" } : {}) };
  return day.toLocaleDateString("en-GB", how);
}

// Round steps between marks of an axis from 0, four or so.
function ticks(top) {
  const rough = top / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const marks = [];
  for (let value = 0; value <= top * 1.0001; value += step) marks.push(value);
  return marks;
}

function frame(width, height, label) {
  return node("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, "font-family": FONT });
}

function text(x, y, colour, content, more = {}) {
  return node("text", { x, y, fill: colour, "font-size": 12, ...more }, content);
}

const joined = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
const band = (low, high) => `${joined([...low, ...high.slice().reverse()])}Z`;

// One region's fan. `known` holds the periods that were observed, `alike` true curves of other songs.
export function fan(rows, { known = new Set(), alike = [], colours, width = 420, height = 230, title }) {
  const left = 46, right = 10, above = 10, below = 24;
  const value = (row, level) => Number(row[level]);
  const highest = Math.max(...rows.map((row) => value(row, "0.9")), 1);
  const others = Math.max(0, ...alike.flat().filter(Number.isFinite));
  // A hit among the songs alike may not press the forecast flat.
  const top = 1.05 * Math.max(highest, Math.min(others, 1.6 * highest));
  const x = (at) => left + (at * (width - left - right)) / Math.max(1, rows.length - 1);
  const y = (streams) => height - below - (Math.max(0, Math.min(streams, top)) * (height - above - below)) / top;
  const svg = frame(width, height, title);
  for (const mark of ticks(top)) {
    svg.append(node("line", { x1: left, x2: width - right, y1: y(mark), y2: y(mark), stroke: colours.grid }));
    svg.append(text(left - 6, y(mark) + 4, colours.quiet, readable(mark), { "text-anchor": "end" }));
  }
  const step = Math.ceil(rows.length / (width < 360 ? 3 : 4));
  for (let at = 0; at < rows.length; at += step) {
    const anchor = at === 0 ? "start" : at === rows.length - 1 ? "end" : "middle";
    svg.append(text(x(at), height - 6, colours.quiet, shortDate(rows[at].date), { "text-anchor": anchor }));
  }
  // The fan opens at the last known period, where there is no doubt.
  const last = Math.max(-1, ...known);
  const ahead = rows.map((_, at) => at).filter((at) => at >= last);
  const line = (level) => ahead.map((at) => [x(at), y(value(rows[at], level))]);
  svg.append(node("path", { d: band(line("0.1"), line("0.9")), fill: colours.outer }));
  svg.append(node("path", { d: band(line("0.2"), line("0.8")), fill: colours.inner }));
  for (const curve of alike) {
    const points = curve.slice(0, rows.length).map((streams, at) => [x(at), streams === null ? null : y(streams)]);
    const d = joined(points.filter(([, height_]) => height_ !== null));
    svg.append(node("path", { d, fill: "none", stroke: colours.alike, "stroke-width": 1.4, "stroke-dasharray": "1.5 3" }));
  }
  svg.append(node("path", { d: joined(line("0.5")), fill: "none", stroke: colours.median, "stroke-width": 2.4 }));
  for (const at of known) {
    if (rows[at]) svg.append(node("circle", { cx: x(at), cy: y(value(rows[at], "0.5")), r: 3.6, fill: colours.seen }));
  }
  const cursor = node("line", { class: "cursor", y1: above, y2: height - below, stroke: colours.ink, "stroke-width": 1, visibility: "hidden" });
  svg.append(cursor);
  return { svg, show: (at) => { for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(at)); cursor.setAttribute("visibility", "visible"); }, at: (share) => Math.round(Math.max(0, Math.min(1, (share * width - left) / (width - left - right))) * (rows.length - 1)) };
}

// Totals of all regions on one scale of powers of ten, as regions differ in size.
export function comparison(totals, { colours, width = 640, names }) {
  const row = 30, left = 118, right = 74, height = totals.length * row + 26;
  const low = Math.log10(Math.max(1, Math.min(...totals.map((one) => one["0.1"] || one["0.5"] || 1))));
  const high = Math.log10(Math.max(10, ...totals.map((one) => one["0.9"])));
  const x = (streams) => left + ((Math.log10(Math.max(streams, 10 ** low)) - low) * (width - left - right)) / Math.max(high - low, 0.1);
  const said = totals.map((one) => `${names(one.region)} ${readable(one["0.5"])}`).join(", ");
  const svg = frame(width, height, `Streams in all by region: ${said}`);
  const factors = (width - left - right) / Math.max(high - low, 0.1) > 150 ? [1, 2, 5] : [1];
  const marks = [];
  for (let power = Math.floor(low); power <= high; power += 1) marks.push(...factors.map((factor) => factor * 10 ** power));
  for (const mark of marks.filter((one) => Math.log10(one) >= low && Math.log10(one) <= high)) {
    const at = x(mark);
    svg.append(node("line", { x1: at, x2: at, y1: 0, y2: height - 22, stroke: colours.grid }));
    svg.append(text(at, height - 6, colours.quiet, readable(mark), { "text-anchor": "middle" }));
  }
  totals.forEach((one, place) => {
    const y = place * row + row / 2;
    const bar = (from, to, thickness, colour) => node("line", { x1: x(one[from]), x2: x(one[to]), y1: y, y2: y, stroke: colour, "stroke-width": thickness, "stroke-linecap": "round" });
    svg.append(text(0, y + 4, colours.ink, names(one.region), { "font-size": 13 }));
    svg.append(bar("0.1", "0.9", 10, colours.outer), bar("0.2", "0.8", 10, colours.inner));
    svg.append(node("circle", { cx: x(one["0.5"]), cy: y, r: 5, fill: colours.median }));
    svg.append(text(width, y + 4, colours.ink, readable(one["0.5"]), { "text-anchor": "end", "font-size": 13 }));
  });
  return svg;
}

// A known song's true curve over the forecast's widest band.
export function small(curve, rows, { colours, title, width = 240, height = 64 }) {
  const top = Math.max(1, ...curve.filter(Number.isFinite), ...rows.map((row) => row["0.9"]));
  const x = (at) => (at * width) / Math.max(1, rows.length - 1);
  const y = (streams) => height - 3 - (streams * (height - 6)) / top;
  const svg = frame(width, height, title);
  const line = (level) => rows.map((row, at) => [x(at), y(row[level])]);
  svg.append(node("path", { d: band(line("0.1"), line("0.9")), fill: colours.outer }));
  const points = curve.map((streams, at) => [x(at), streams]).filter(([, streams]) => Number.isFinite(streams));
  svg.append(node("path", { d: joined(points.map(([at, streams]) => [at, y(streams)])), fill: "none", stroke: colours.seen, "stroke-width": 2 }));
  return svg;
}

// Bars over the player: by how much each stretch of the song raises (up) or lowers (down) the forecast.
export function bars(starts, effects, { colours, length, width = 300, height = 70 }) {
  const most = Math.max(1e-9, ...effects.map(Math.abs)), middle = height / 2;
  const svg = frame(width, height, "Effect of each stretch of the song on its forecast; the strongest are listed below");
  effects.forEach((effect, place) => {
    const from = (starts[place] / length) * width;
    const to = ((starts[place + 1] ?? length) / length) * width;
    const size = (Math.abs(effect) / most) * (middle - 2);
    svg.append(node("rect", { x: from + 0.5, width: Math.max(1, to - from - 1), y: effect >= 0 ? middle - size : middle, height: Math.max(size, 0.5), fill: effect >= 0 ? colours.up : colours.down }));
  });
  svg.append(node("line", { x1: 0, x2: width, y1: middle, y2: middle, stroke: colours.quiet }));
  return svg;
}

// Several figures below one another as one PNG.
export async function png(drawings, heading) {
  const width = 860, scale = 2;
  let height = 44;
  const whole = node("svg", { xmlns: SVG, "font-family": FONT });
  whole.append(text(20, 28, PAPER.ink, heading, { "font-size": 16, "font-weight": 600 }));
  for (const { title, svg } of drawings) {
    whole.append(text(20, height + 16, PAPER.ink, title, { "font-size": 14 }));
    const inner = Number(svg.getAttribute("height"));
    svg.setAttribute("x", 20);
    svg.setAttribute("y", height + 24);
    whole.append(svg);
    height += inner + 36;
  }
  whole.setAttribute("viewBox", `0 0 ${width} ${height}`);
  whole.setAttribute("width", width);
  whole.setAttribute("height", height);
  whole.prepend(node("rect", { width, height, fill: PAPER.card }));
  const address = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(whole)], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((done) => canvas.toBlob(done, "image/png"));
  } finally {
    URL.revokeObjectURL(address);
  }
}

export { LEVELS };
