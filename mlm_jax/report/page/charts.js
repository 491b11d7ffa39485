// What every chart of the page shares: elements, numbers, colours of languages, the tooltip, and line charts.

const PAGE = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, root = document) => root.querySelector(selector);

function create(namespace, name, attributes = {}, children = []) {
  const node = namespace ? document.createElementNS(namespace, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (value !== undefined && value !== null) node.setAttribute(key, value);
  node.append(...[children].flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (name, attributes, children) => create(null, name, attributes, children);
const svg = (name, attributes, children) => create("http://www.w3.org/2000/svg", name, attributes, children);

// ---- numbers
const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
const share = (value) => `${Number((100 * value).toPrecision(3))} %`; // of an axis: 12.5 % is not 13 %
const compact = (value) => Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
const decimals = (value) => {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 10000) return compact(value);
  return size >= 0.001 ? String(Number(value.toPrecision(4))) : value.toExponential(1);
};
function niceTicks(low, high, count) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  let step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => span / size <= count) || 10 * power;
  if (Math.floor(high / step + 1e-9) - Math.ceil(low / step - 1e-9) < 1) step /= step / power === 2.5 ? 2.5 : 2; // one tick tells no scale
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

// ---- metrics: name, how its values read, and what it is
const METRICS = {
  loss: ["Loss", decimals, "Nats for each predicted token of held-out text (lines with dots) and of training text (thin lines)."],
  accuracy: ["Accuracy", percent, "Share of the predicted tokens that the model guesses right."],
  bits_per_byte: ["Bits per byte", decimals, "Held-out loss counted for each byte of text: comparable between vocabularies and scripts."],
  retrieval_at_1: ["Retrieval@1", percent, "How often a held-out sentence’s translation is its nearest neighbour, averaged over all pairs with the language."],
};
const metricInfo = (metric) => {
  const [task, name] = metric.includes("/") ? [`${metric.slice(0, metric.lastIndexOf("/"))}: `, metric.split("/").at(-1)] : ["", metric];
  const [label, format, about] = METRICS[name] || [name.replaceAll("_", " "), decimals, ""];
  return { label: task + (task ? label.toLowerCase() : label), format, about };
};
const metricLabel = (metric) => metricInfo(metric).label;

// ---- languages
const languageNames = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });
const languageName = (code) => {
  if (code === "mean") return "mean of languages";
  if (code === "micro") return "mean of tokens";
  try { return languageNames.of(code.replaceAll("_", "-")); } catch { return code; } // a code that is no BCP 47 tag
};
function paintLanguages(languages = PAGE.languages) {
  const few = languages.length <= 12, rules = [];
  languages.forEach((code, i) => {
    const hue = few ? 20 + (360 * i) / languages.length : (20 + 137.508 * i) % 360;
    const lift = few ? (i % 2) * 0.1 : (i % 3) * 0.07; // neighbours differ in lightness too
    const color = `light-dark(oklch(${0.54 + lift} .155 ${hue}), oklch(${0.7 + lift} .14 ${hue}))`;
    const name = CSS.escape(code);
    rules.push(`[data-language="${name}"] { --c: ${color}; }`);
    rules.push(`:root[data-focus="${name}"] [data-language]:not([data-language~="${name}"]) { opacity: .13; }`);
  });
  document.head.append(el("style", {}, rules.join("\n")));
}
let pinned = null;
const focusLanguage = (code) => {
  if (code ?? pinned) document.documentElement.dataset.focus = code ?? pinned;
  else delete document.documentElement.dataset.focus;
};

// ---- tooltip
const tooltip = {
  show(event, children) {
    const box = $("#tooltip");
    box.replaceChildren(...children);
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const right = event.clientX + 16 + width < innerWidth - 8 ? event.clientX + 16 : event.clientX - width - 16;
    const below = event.clientY + 16 + height < innerHeight - 8 ? event.clientY + 16 : event.clientY - height - 16;
    box.style.left = `${Math.min(Math.max(8, right), Math.max(8, innerWidth - width - 8))}px`;
    box.style.top = `${Math.max(8, below)}px`;
  },
  hide() { $("#tooltip").hidden = true; },
  on(node, content) { // over a node, and when it is tapped or focused
    const show = (event) => tooltip.show(event, content());
    node.addEventListener("pointerenter", show);
    node.addEventListener("pointermove", show);
    node.addEventListener("click", show);
    node.addEventListener("pointerleave", tooltip.hide);
  },
};
addEventListener("scroll", tooltip.hide, { passive: true });

function theme() {
  $("#theme").addEventListener("click", () => {
    const style = document.documentElement.style;
    const dark = style.colorScheme ? style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    style.colorScheme = dark ? "light" : "dark";
  });
}

// Offers rows of cells as a CSV file.
function download(name, rows) {
  const cell = (value) => { const text = value === null || value === undefined ? "" : String(typeof value === "number" ? Number(value.toPrecision(12)) : value); return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
  save(name, rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n", "text/csv");
}

// Offers a drawing as an SVG file, with the colours and fonts that the page gives it.
const DRAWN = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linejoin", "paint-order", "opacity", "visibility", "font-family", "font-size", "font-weight"];
function downloadDrawing(name, drawing) {
  const copy = drawing.cloneNode(true), nodes = [...copy.querySelectorAll("*")];
  [...drawing.querySelectorAll("*")].forEach((node, i) => { const style = getComputedStyle(node); nodes[i].setAttribute("style", DRAWN.map((key) => `${key}:${style.getPropertyValue(key)}`).join(";")); });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", drawing.viewBox.baseVal.width);
  const paper = getComputedStyle(drawing.closest(".card")).backgroundColor; // text of the dark theme cannot be read on white
  copy.prepend(svg("rect", { width: "100%", height: "100%", fill: paper }));
  save(name, new XMLSerializer().serializeToString(copy), "image/svg+xml");
}

// Titles may hold names of runs, with characters that file names lack.
function save(name, text, type) {
  const link = el("a", { download: name.replace(/[^\p{L}\p{N}._=-]+/gu, "-"), href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  URL.revokeObjectURL(link.href);
}

// ---- charts are drawn for the width they get, so that text stays readable on a phone
function responsive(host, draw) {
  let width = 0;
  const redraw = () => {
    const now = Math.round(host.clientWidth);
    if (now && now !== width) draw((width = now));
  };
  new ResizeObserver(redraw).observe(host);
  redraw();
}

let charts = 0; // drawn so far: makes names of clip paths unique

// Draws lines {label, points: [[step, value]], language?, kind?: "train" | "raw" | "plan" | "beside" | "average"} over steps.
// ``xLabel`` names the horizontal axis, ``yLabel`` the vertical one, ``bands`` are [first, last, "name: settings"] of phases, of which the
// settings are shown under the pointer, ``mark`` is [step, name] of a vertical line. The first ``settled`` of the steps, where all curves fall,
// do not count for the extent, but the last three points of the curves always do.
const WITHOUT_LABEL = ["train", "raw", "plan", "beside"];
function lineChart(host, { lines, format = decimals, ratio = 0.42, least = 250, zero = false, labels = true, xLabel = "steps", yLabel = "", bands = [], settled = 0, whole = true, mark = null }) {
  lines = lines.filter((line) => line.points.length);
  const points = lines.flatMap((line) => line.points);
  if (!points.length) return;
  const [firstStep, lastStep] = [Math.min(...points.map((p) => p[0])), Math.max(...points.map((p) => p[0]))];
  const steps = [...new Set(points.map((p) => p[0]))].sort((a, b) => a - b);
  const begun = Math.min(firstStep + settled * (lastStep - firstStep), steps.at(-3) ?? firstStep);
  const counted = lines.map((line) => ({ ...line, points: [...line.points.map((p) => [p[0], p[1]]),
    ...(line.area || []).flatMap(([step, low, high]) => [[step, low], [step, high]])].filter((p) => p[0] >= begun) }));
  let [low, high] = range(counted, zero);
  const ends = labels ? lines.filter((line) => !WITHOUT_LABEL.includes(line.kind)) : [];

  responsive(host, (width) => {
    const named = ends.length > 1 && ends.length <= 16;
    const beside = named ? 14 + 7.5 * Math.max(...ends.map((line) => line.label.length)) : 0;
    const below = beside > 0.35 * width ? 17 * ends.length : 0; // long names on a phone: a list below the chart
    const height = Math.round(Math.min(Math.max(width * ratio, least), 430)) + below;
    const margin = { top: yLabel ? 24 : 10, right: named && !below ? beside : 12, bottom: (xLabel ? 40 : 24) + below };
    const ticks = niceTicks(low, high, Math.max(3, Math.round((height - below) / 60)));
    margin.left = 12 + 6.6 * Math.max(...ticks.map((tick) => format(tick).length));
    const x = (step) => margin.left + ((step - firstStep) / (lastStep - firstStep || 1)) * (width - margin.left - margin.right);
    const y = (value) => height - margin.bottom - ((value - low) / (high - low || 1)) * (height - margin.top - margin.bottom);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
    bands.forEach(([from, to, name], i) => {
      const [start, end] = [Math.max(from, firstStep), Math.min(to, lastStep)];
      if (start >= end) return;
      root.append(svg("rect", { class: i % 2 ? "band odd" : "band", x: x(start), y: margin.top, width: x(end) - x(start), height: height - margin.top - margin.bottom }, svg("title", {}, name)),
        svg("text", { class: "band", x: x(start) + 5, y: margin.top + 13 }, name.split(": ")[0]));
    });
    if (xLabel) root.append(svg("text", { class: "label", x: (margin.left + width - margin.right) / 2, y: height - below - 4, "text-anchor": "middle" }, xLabel));
    if (yLabel) root.append(svg("text", { class: "label", x: 0, y: 12 }, yLabel));
    for (const tick of ticks)
      root.append(
        svg("line", { class: "gridline", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: margin.left - 8, y: y(tick) + 4, "text-anchor": "end" }, format(tick)));
    for (const tick of niceTicks(firstStep, lastStep, Math.max(2, Math.floor(width / 110))).filter((tick) => !whole || Number.isInteger(tick)))
      root.append(svg("text", { x: x(tick), y: height - margin.bottom + 18, "text-anchor": "middle" }, tick >= 10000 ? compact(tick) : tick));
    root.append(svg("line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: height - margin.bottom, y2: height - margin.bottom }));
    if (mark && mark[0] >= firstStep && mark[0] <= lastStep) root.append(
      svg("line", { class: "mark", x1: x(mark[0]), x2: x(mark[0]), y1: margin.top, y2: height - margin.bottom }),
      svg("text", { x: x(mark[0]) + (x(mark[0]) > width / 2 ? -5 : 5), y: margin.top + 12, "text-anchor": x(mark[0]) > width / 2 ? "end" : "start" }, mark[1]));
    const clip = `clip-${++charts}`;
    root.append(svg("clipPath", { id: clip }, svg("rect", { x: 0, y: margin.top - 3, width, height: height - margin.top - margin.bottom + 6 })));
    for (const line of lines) {
      if (line.area) { // [[step, low, high]]
        const edge = [...line.area.map(([step, low]) => [step, low]), ...line.area.map(([step, , high]) => [step, high]).reverse()];
        root.append(svg("path", { class: "area", "data-language": line.language, "clip-path": `url(#${clip})`, d: `M${edge.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join("L")}Z` }));
      }
      const path = line.points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join("L");
      const group = svg("g", { "data-language": line.language, "clip-path": `url(#${clip})` });
      group.append(svg("path", { class: `curve ${line.kind || ""}`, d: `M${path}` }));
      if (line.points.length === 1 || (line.points.length <= 40 && line.kind === undefined))
        for (const [step, value] of line.points) group.append(svg("circle", { class: "dot", cx: x(step), cy: y(value), r: 2.4 }));
      root.append(group);
    }
    if (below) ends.forEach((line, i) => root.append(svg("text", { class: "end", x: margin.left, y: height - below + 17 * (i + 1), "data-language": line.language }, line.label)));
    else if (named) endLabels(root, ends, (line) => y(line.points.at(-1)[1]), width - margin.right + 8, height - margin.bottom + 24);
    host.replaceChildren(root);
    crosshair(root, { lines, x, format, width, height, margin, firstStep, lastStep, unit: xLabel.replace(/s$/, "") });
  });
}

// The extent of the values; a few wild points at the start of training do not squeeze the rest.
function range(lines, zero) {
  const evaluated = lines.filter((line) => line.kind !== "train" && line.kind !== "raw");
  const values = (evaluated.length ? evaluated : lines).flatMap((line) => line.points.map((p) => p[1])).sort((a, b) => a - b);
  let low = zero ? Math.min(0, values[0]) : values[0], high = values.at(-1);
  const pad = (high - low || Math.abs(high) || 1) * 0.05;
  return [zero ? low : low - pad, high + pad];
}

function endLabels(root, lines, y, x, height) {
  const placed = lines.map((line) => ({ line, at: y(line) })).sort((a, b) => a.at - b.at);
  const gap = Math.min(13.5, (height - 20) / placed.length);
  for (let i = 1; i < placed.length; i++) placed[i].at = Math.max(placed[i].at, placed[i - 1].at + gap);
  const over = placed.at(-1).at - (height - 26);
  if (over > 0) {
    placed.at(-1).at -= over;
    for (let i = placed.length - 2; i >= 0; i--) placed[i].at = Math.min(placed[i].at, placed[i + 1].at - gap);
  }
  for (const { line, at } of placed)
    root.append(svg("text", { class: "end", x, y: at + 4, "data-language": line.language }, line.label));
}

function crosshair(root, { lines, x, format, width, height, margin, firstStep, lastStep, unit }) {
  const cursor = svg("line", { class: "cursor", y1: margin.top, y2: height - margin.bottom, visibility: "hidden" });
  root.append(cursor);
  const shown = lines.filter((line) => line.kind !== "train" && line.kind !== "raw");
  const listed = shown.length ? shown : lines.filter((line) => line.kind !== "raw");
  const steps = [...new Set(listed.flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);
  const at = (line, step) => line.points.reduce((best, p) => (Math.abs(p[0] - step) < Math.abs(best[0] - step) ? p : best))[1];
  const move = (event) => {
    const box = root.getBoundingClientRect();
    const share = ((event.clientX - box.left) * (width / box.width) - margin.left) / (width - margin.left - margin.right);
    const wanted = firstStep + share * (lastStep - firstStep);
    const step = steps.reduce((best, s) => (Math.abs(s - wanted) < Math.abs(best - wanted) ? s : best));
    cursor.setAttribute("x1", x(step));
    cursor.setAttribute("x2", x(step));
    cursor.setAttribute("visibility", "visible");
    const rows = listed.map((line) => [line, at(line, step)]).sort((a, b) => b[1] - a[1]);
    tooltip.show(event, [el("b", {}, `${unit} ${(step >= 100 ? Math.round(step) : Number(step.toPrecision(3))).toLocaleString("en")}`), ...rows.slice(0, 18).map(([line, value]) =>
      el("div", { class: "line", "data-language": line.language }, [
        el("span", {}, (line.language ? languageName(line.language) : line.label) + (line.kind === "beside" ? ` · ${PAGE.beside.title}` : "")),
        el("span", {}, (line.kind === "plan" ? "planned " : "") + format(value))]))]);
  };
  const leave = () => { cursor.setAttribute("visibility", "hidden"); tooltip.hide(); };
  root.addEventListener("pointermove", move);
  root.addEventListener("pointerdown", move);
  root.addEventListener("pointerleave", leave);
}

// A row of buttons, one of which is pressed; ``choose(name)`` is called at once for the first.
function choices(host, names, label, choose) {
  const buttons = names.map((name) => {
    const button = el("button", { type: "button", "aria-pressed": "false" }, label(name));
    button.addEventListener("click", () => press(name));
    return button;
  });
  const press = (name) => {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", names[i] === name));
    choose(name);
  };
  host.replaceChildren(...buttons);
  host.hidden = names.length < 2;
  press(names[0]);
}
