// The page that compares runs. ``view`` is what is chosen; ``draw`` shows it.

const { runs, metrics, parameters } = PAGE;
PAGE.languages = runs.map((run) => run.name); // charts.js paints and focuses these
const view = { metric: 0, language: "mean", baseline: runs.findIndex((run) => run.name === PAGE.baseline), filter: "", seeds: false, sort: null };
const varied = parameters.filter((key) => new Set(runs.map((run) => JSON.stringify(run.settings[key]))).size > 1);
const short = (run) => { // a name that tells a column's run from the others
  const settings = varied.map((key) => `${brief(key)}=${text(runs[run].settings[key])}`).join(" ");
  return settings && settings.length <= 40 && runs[run].name.length > 24 ? settings : clip(runs[run].name, 24);
};
const brief = (key) => key.split(".").at(-1);
const text = (value) => (typeof value === "string" ? value : value === null ? "" : JSON.stringify(value));
const valueOf = (run, metric = view.metric, language = view.language) => PAGE.values[metrics[metric].name][language]?.[run] ?? null;
// With as many decimals as a metric's values have in common, so that they align.
const places = metrics.map(({ name }) => { const top = Math.max(...Object.values(PAGE.values[name]).flat().map((value) => Math.abs(value ?? 0))); return top >= 100 ? 1 : top >= 10 ? 2 : top >= 1 ? 3 : 4; });
const fixed = (value, metric) => value.toFixed(places[metric]);
const signed = (value) => (value < 0 ? "−" : "+") + fixed(Math.abs(value), view.metric);

// The interval of a run's difference to the baseline. A page of many runs and languages has those of languages for the baseline that it was
// written with, and those of averages for any.
const intervalOf = (run, metric = view.metric, language = view.language) => {
  const other = view.baseline, name = metrics[metric].name;
  if (runs[other].name === PAGE.baseline) return PAGE.intervals[name]?.[language]?.[run] ?? null;
  const found = PAGE.between[name]?.[language]?.[Math.max(run, other)]?.[Math.min(run, other)] ?? null;
  return found && run < other ? [-found[1], -found[0]] : found;
};
const hasIntervals = () => runs[view.baseline].name === PAGE.baseline || view.language in (PAGE.between[metrics[view.metric].name] ?? {});
const isSure = (found) => found !== null && (found[0] > 0 || found[1] < 0);
const bracket = (found) => (found ? el("small", {}, ` [${found.map((end) => signed(end)).join(", ")}]`) : "");
const isBetter = (a, b, metric = view.metric) => (metrics[metric].less ? a < b : a > b);
const MOST_ROWS = 12; // runs that the table of languages holds

function words(run) { return [runs[run].name, runs[run].state, ...parameters.map((key) => `${brief(key)}=${text(runs[run].settings[key])}`)].join(" "); }
function visible() {
  const wanted = view.filter.toLowerCase().split(/\s+/).filter(Boolean);
  return runs.map((_, run) => run).filter((run) => wanted.every((word) => words(run).toLowerCase().includes(word)));
}
function best(shown, metric = view.metric, language = view.language) {
  const measured = shown.filter((run) => runs[run].finished && valueOf(run, metric, language) !== null);
  return measured.reduce((top, run) => (top === null || isBetter(valueOf(run, metric, language), valueOf(top, metric, language), metric) ? run : top), null);
}

// ---- runs that differ in their seed only are one row, with mean and spread
function groups(shown) {
  const found = new Map();
  for (const run of shown) {
    const key = view.seeds ? JSON.stringify(parameters.filter((name) => name !== "seed").map((name) => runs[run].settings[name])) : String(run);
    found.set(key, [...(found.get(key) || []), run]);
  }
  return [...found.values()];
}
function statistics(members, metric, language = view.language) {
  const values = members.map((run) => valueOf(run, metric, language)).filter((value) => value !== null);
  if (!values.length) return { mean: null, spread: null };
  const mean = values.reduce((a, b) => a + b) / values.length;
  const spread = values.length > 1 ? Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1)) : null;
  return { mean, spread };
}

function runsTable(shown) {
  const root = $("#runs"), withSeeds = varied.includes("seed");
  const axes = varied.filter((key) => !(view.seeds && key === "seed"));
  const champion = best(shown), reference = valueOf(view.baseline);
  const columns = [
    { head: "run", cell: (members) => name(members), value: (members) => runs[members[0]].name },
    ...axes.map((key) => ({ head: brief(key), cell: ([run]) => text(runs[run].settings[key]), value: ([run]) => runs[run].settings[key] })),
    ...metrics.map(({ name: label }, metric) => ({ head: metricLabel(label), number: true, ranked: metric === view.metric,
      cell: (members) => { const { mean, spread } = statistics(members, metric); return mean === null ? "" : fixed(mean, metric) + (spread === null ? "" : ` ± ${fixed(spread, metric)}`); },
      value: (members) => statistics(members, metric).mean })),
    { head: "Δ to baseline", number: true, value: (members) => { const { mean } = statistics(members, view.metric); return mean === null || reference === null ? null : mean - reference; },
      cell: (members) => { const { mean } = statistics(members, view.metric); return mean === null || reference === null ? "" : members.includes(view.baseline) && members.length === 1 ? "baseline" : [signed(mean - reference), members.length === 1 ? bracket(intervalOf(members[0])) : ""]; } },
    { head: "step", number: true, cell: ([run]) => (runs[run].step ?? "").toLocaleString("en"), value: ([run]) => runs[run].step },
  ];
  // A trial's name says what the columns say: its number is enough.
  const labelOf = (run) => (axes.length && varied.every((key) => runs[run].name.includes(`${brief(key)}=${text(runs[run].settings[key])}`)) ? `trial ${run + 1}` : runs[run].name);
  const name = (members) => {
    const run = members[0], label = members.length > 1 ? axes.map((key) => `${brief(key)}=${text(runs[run].settings[key])}`).join(", ") + ` (${members.length} seeds)` : labelOf(run);
    const link = runs[run].report && members.length === 1 ? el("a", { href: runs[run].report, title: runs[run].name }, label) : label;
    const failed = members.filter((member) => !runs[member].finished).map((member) => el("small", { class: "failed" }, runs[member].state));
    return [link, ...(members.includes(champion) ? [el("small", { class: "best" }, "best")] : []), ...failed];
  };
  const rows = groups(shown), order = view.sort || { column: columns.findIndex((column) => column.ranked), down: !metrics[view.metric].less };
  const rank = (members) => { const value = columns[order.column]?.value(members); return value === null || value === undefined ? null : typeof value === "number" ? value : text(value); };
  rows.sort((a, b) => {
    const [x, y] = [rank(a), rank(b)];
    if (x === null || y === null) return (x === null) - (y === null); // without a value: last
    return (x < y ? -1 : x > y ? 1 : 0) * (order.down ? -1 : 1);
  });
  const head = columns.map((column, i) => {
    const cell = el("th", { class: i && !column.number ? "left" : null, "aria-sort": i === order.column ? (order.down ? "descending" : "ascending") : null }, column.head);
    cell.addEventListener("click", () => { view.sort = { column: i, down: i === order.column ? !order.down : false }; draw(); });
    return cell;
  });
  const body = rows.map((members) => el("tr", { "data-language": runs[members[0]].name, class: members.every((run) => runs[run].finished) ? "" : "unfinished" },
    columns.map((column, i) => (i ? el("td", { class: column.number ? "" : "left" }, column.cell(members)) : el("th", { scope: "row" }, column.cell(members))))));
  $(".scroll", root).replaceChildren(el("table", {}, [el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)]));
  $(".about", root).textContent = `Values are of held-out text, ${languageName(view.language)}; ranked by ${metricLabel(metrics[view.metric].name)}. Brackets hold the 95 % interval of a difference${hasIntervals() ? "" : ", which this page has for the baseline " + PAGE.baseline + " only"}. ` +
    "The first column links to the reports of the runs. Click a column to sort by it.";
  $(".download", root).onclick = () => download("runs.csv", [columns.map((column) => column.head), ...rows.map((members) => columns.map((column) => column.value(members)))]);
  if (!$(".choices", root).children.length)
    choices($(".choices", root), withSeeds ? ["each run", "seeds averaged"] : ["each run"], (label) => label, (label) => { view.seeds = label !== "each run"; draw(); });
}

// ---- a hyperparameter's values lie on an axis: by size if they are numbers (by their logarithm if they span decades)
function scale(key, members) {
  const values = members.map((run) => runs[run].settings[key]);
  const numeric = values.every((value) => typeof value === "number");
  const logarithmic = numeric && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) >= 20;
  const names = numeric ? [...new Set(values)].sort((a, b) => a - b) : [...new Set(values.map(text))];
  const place = (value) => (!numeric ? names.indexOf(text(value)) : logarithmic ? Math.log10(value) : value);
  const places = names.map((name) => (numeric ? place(name) : names.indexOf(name)));
  const [low, high] = [Math.min(...places), Math.max(...places)];
  return { names, share: (value) => (high === low ? 0.5 : (place(value) - low) / (high - low)), at: (name) => (high === low ? 0.5 : ((numeric ? place(name) : names.indexOf(name)) - low) / (high - low)), logarithmic };
}
// Labels that would overlap are left out.
const thinned = (names, at, room) => { let last = -Infinity; return names.filter((name) => { const here = at(name); if (here - last < room) return false; last = here; return true; }); };

function scatter(shown) {
  const root = $("#scatter"), axes = varied.filter((key) => key !== "seed");
  root.hidden = !axes.length;
  if (!axes.length) return;
  if (!$(".choices", root).children.length) { view.axis = axes[0]; choices($(".choices", root), axes, brief, (key) => { view.axis = key; draw(); }); }
  const measured = shown.filter((run) => runs[run].finished && valueOf(run) !== null), host = fresh(root);
  if (!measured.length) return;
  const across = scale(view.axis, measured), values = measured.map((run) => valueOf(run));
  const [low, high] = [Math.min(...values), Math.max(...values)], pad = (high - low || 1) * 0.06;
  $(".about", root).textContent = `${view.axis}${across.logarithmic ? " (logarithmic)" : ""} → ${metricLabel(metrics[view.metric].name)}; the line joins the means of finished runs.`;
  responsive(host, (width) => {
    const height = Math.round(Math.min(Math.max(width * 0.6, 250), 400)), margin = { left: 62, right: 18, top: 10, bottom: 40 };
    const x = (at) => margin.left + 14 + at * (width - margin.left - margin.right - 28);
    const y = (value) => height - margin.bottom - ((value - low + pad) / (high - low + 2 * pad)) * (height - margin.top - margin.bottom);
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
    for (const tick of niceTicks(low - pad, high + pad, 5)) drawing.append(svg("line", { class: "gridline", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: margin.left - 8, y: y(tick) + 4, "text-anchor": "end" }, decimals(tick)));
    for (const name of thinned(across.names, (value) => x(across.at(value)), 46)) drawing.append(svg("text", { x: x(across.at(name)), y: height - 22, "text-anchor": "middle" }, clip(typeof name === "number" ? decimals(name) : name)));
    drawing.append(svg("text", { x: (width + margin.left) / 2, y: height - 4, "text-anchor": "middle" }, view.axis));
    const means = across.names.map((name) => [name, measured.filter((run) => text(runs[run].settings[view.axis]) === text(name)).map((run) => valueOf(run))]).filter(([, found]) => found.length);
    drawing.append(svg("path", { class: "curve plan", d: `M${means.map(([name, found]) => `${x(across.at(name))},${y(found.reduce((a, b) => a + b) / found.length)}`).join("L")}` }));
    for (const run of measured) {
      const point = svg("circle", { class: "point", r: 5, cx: x(across.share(runs[run].settings[view.axis])), cy: y(valueOf(run)), "data-language": runs[run].name });
      tooltip.on(point, () => [el("b", {}, runs[run].name), decimals(valueOf(run))]);
      drawing.append(point);
    }
    host.replaceChildren(drawing);
  });
}
const clip = (value, size = 16) => (String(value).length > size ? `${String(value).slice(0, size)}…` : String(value));
function fresh(root) { const host = el("div", { class: "chart" }); $(".chart", root).replaceWith(host); return host; }

function curves(shown) {
  const root = $("#curves"), host = fresh(root), found = PAGE.curves[metrics[view.metric].name][view.language];
  $(".about", root).textContent = found ? `${metricLabel(metrics[view.metric].name)}, ${languageName(view.language)}, over optimizer steps. The thick line is the best run.`
    : "With this many runs and languages, this page has only the curves of averages; each run’s report has those of its languages.";
  if (!found) return;
  const champion = best(shown);
  const lines = shown.filter((run) => found[run].length).map((run) => ({ label: short(run), language: runs[run].name, points: found[run], kind: shown.length > 16 ? "many" : undefined }));
  if (champion !== null && found[champion].length) lines.push({ label: "best", kind: "average", points: found[champion] });
  lineChart(host, { lines, labels: shown.length <= 8, ratio: 0.6, settled: 0.15 });
}

function parallel(shown) {
  const root = $("#parallel"), measured = shown.filter((run) => runs[run].finished && valueOf(run) !== null);
  root.hidden = varied.length < 2 || measured.length < 2;
  if (root.hidden) return;
  const host = fresh(root), values = measured.map((run) => valueOf(run)), [low, high] = [Math.min(...values), Math.max(...values)];
  const scales = varied.map((key) => scale(key, measured));
  const goodness = (run) => { const at = (valueOf(run) - low) / (high - low || 1); return metrics[view.metric].less ? 1 - at : at; };
  responsive(host, (width) => {
    const height = 300, top = 30, bottom = 20, left = 60, right = 70, count = varied.length;
    const x = (axis) => left + (axis / count) * (width - left - right), y = (at) => height - bottom - at * (height - top - bottom);
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
    for (const run of [...measured].sort((a, b) => goodness(a) - goodness(b))) {
      const at = [...scales.map((one, i) => one.share(runs[run].settings[varied[i]])), (valueOf(run) - low) / (high - low || 1)];
      const line = svg("path", { class: "curve", style: `--c: color-mix(in oklab, var(--accent) ${Math.round(15 + 85 * goodness(run) ** 2)}%, var(--grid))`,
        "data-language": runs[run].name, d: `M${at.map((share, axis) => `${x(axis).toFixed(1)},${y(share).toFixed(1)}`).join("L")}` });
      tooltip.on(line, () => [el("b", {}, runs[run].name), decimals(valueOf(run))]);
      line.addEventListener("pointerenter", () => focusLanguage(runs[run].name));
      line.addEventListener("pointerleave", () => focusLanguage(null));
      drawing.append(line);
    }
    [...varied.map(brief), metricLabel(metrics[view.metric].name)].forEach((label, axis) => {
      drawing.append(svg("line", { class: "axis", x1: x(axis), x2: x(axis), y1: top, y2: height - bottom }), svg("text", { x: x(axis), y: 16, "text-anchor": "middle" }, clip(label, 18)));
      const ticks = axis < count ? thinned(scales[axis].names, (name) => -y(scales[axis].at(name)), 13).map((name) => [scales[axis].at(name), typeof name === "number" ? decimals(name) : clip(name, 10)])
        : niceTicks(low, high, 5).map((tick) => [(tick - low) / (high - low || 1), decimals(tick)]);
      for (const [at, label] of ticks) drawing.append(svg("text", { x: x(axis) + 7, y: y(at) + 4 }, label));
    });
    host.replaceChildren(drawing);
  });
}

// ---- a row a language, a column a run: the best ones, with their difference to the baseline as colour
function languagesTable(shown) {
  const root = $("#languages"), { name: metric, less } = metrics[view.metric], codes = Object.keys(PAGE.values[metric]).filter((code) => !PAGE.averages.includes(code));
  root.hidden = !codes.length || runs.length < 2;
  if (root.hidden) return;
  const measured = shown.filter((run) => valueOf(run) !== null && run !== view.baseline).sort((a, b) => (isBetter(valueOf(a), valueOf(b)) ? -1 : 1));
  const columns = [view.baseline, ...measured.slice(0, MOST_ROWS - 1)];
  const gain = (code, run) => { const [here, there] = [valueOf(run, view.metric, code), valueOf(view.baseline, view.metric, code)]; return here === null || there === null ? null : here - there; };
  const most = Math.max(...codes.flatMap((code) => columns.map((run) => Math.abs(gain(code, run) ?? 0)))) || 1;
  const widest = (code) => Math.max(...columns.map((run) => Math.abs(gain(code, run) ?? 0)));
  codes.sort((a, b) => widest(b) - widest(a));
  $(".about", root).textContent = `${metricLabel(metric)}: the baseline’s value, and differences to it; green is better${PAGE.intervals[metric] && Object.keys(PAGE.intervals[metric]).length ? ", grey numbers are not told from zero (hover for the 95 % interval)" : ""}. Languages that differ most come first` +
    (measured.length >= MOST_ROWS ? `; the ${MOST_ROWS - 1} best of ${measured.length} other runs (filter to see others).` : ".");
  const head = el("tr", {}, [el("th", {}, "language"), ...columns.map((run) => el("th", { title: runs[run].name }, short(run)))]);
  const body = codes.map((code) => el("tr", {}, [el("th", { scope: "row" }, [code, ...(languageName(code) === code ? [] : [el("small", {}, languageName(code))])]), ...columns.map((run) => {
    const difference = gain(code, run);
    if (run === view.baseline || difference === null) return el("td", {}, valueOf(run, view.metric, code) === null ? "" : fixed(valueOf(run, view.metric, code), view.metric));
    const good = less ? difference < 0 : difference > 0, found = intervalOf(run, view.metric, code);
    return el("td", { class: found && !isSure(found) ? "unsure" : "", title: found ? `95 % interval: ${found.map((end) => signed(end)).join(" to ")}` : null, style: `background: color-mix(in oklab, var(--${good ? "right" : "wrong"}) ${Math.round((55 * Math.abs(difference)) / most)}%, transparent)` }, signed(difference));
  })]));
  $(".scroll", root).replaceChildren(el("table", {}, [el("thead", {}, head), el("tbody", {}, body)]));
}

function settingsTable(shown) {
  const root = $("#settings"), columns = shown.slice(0, MOST_ROWS);
  const long = varied.some((key) => runs.some((run) => text(run.settings[key]).length > 24));
  root.hidden = !varied.length || runs.length > MOST_ROWS || (varied.length <= 4 && !long); // the table of runs has them already
  if (root.hidden) return;
  const head = el("tr", {}, [el("th", {}, "key"), ...columns.map((run) => el("th", {}, short(run)))]);
  const body = varied.map((key) => el("tr", {}, [el("th", { scope: "row" }, key), ...columns.map((run) => el("td", { title: text(runs[run].settings[key]) }, clip(text(runs[run].settings[key]), 60)))]));
  $(".scroll", root).replaceChildren(el("table", {}, [el("thead", {}, head), el("tbody", {}, body)]));
}

// Each chart downloads as SVG.
for (const id of ["scatter", "curves", "parallel"]) {
  const button = el("button", { type: "button", class: "download" }, "download SVG");
  button.addEventListener("click", () => downloadDrawing(`${PAGE.title}-${id}.svg`, $(`#${id} svg`)));
  $(`#${id}`).append(el("p", {}, button));
}

function draw() {
  const shown = visible(), failed = runs.filter((run) => run.state.startsWith("failed")).length;
  $("#count").textContent = `${shown.length} of ${runs.length} runs`;
  $("#summary").textContent = `${runs.length} ${runs.length === 1 ? "run" : "runs"}, ${runs.filter((run) => run.finished).length} finished` + (failed ? `, ${failed} failed` : "") +
    (varied.length ? `; they differ in ${clip(varied.join(", "), 200)}.` : ".");
  runsTable(shown);
  scatter(shown);
  curves(shown);
  parallel(shown);
  languagesTable(shown);
  settingsTable(shown);
}

function controls() {
  const option = (value, label, chosen) => el("option", { value, selected: chosen ? "" : null }, label);
  const languages = () => {
    const found = Object.keys(PAGE.values[metrics[view.metric].name]);
    if (!found.includes(view.language)) view.language = found.includes("mean") ? "mean" : found[0];
    const averages = PAGE.averages.filter((name) => found.includes(name)), rest = found.filter((name) => !averages.includes(name));
    $("#language").replaceChildren(...[...averages, ...rest].map((name) => option(name, languageName(name), name === view.language)));
  };
  $("#metric").replaceChildren(...metrics.map(({ name }, i) => option(i, metricLabel(name), i === view.metric)));
  $("#metric").addEventListener("change", (event) => { view.metric = Number(event.target.value); view.sort = null; languages(); draw(); });
  $("#language").addEventListener("change", (event) => { view.language = event.target.value; draw(); });
  $("#baseline").replaceChildren(...runs.map((run, i) => option(i, clip(run.name, 40), i === view.baseline)));
  $("#baseline").addEventListener("change", (event) => { view.baseline = Number(event.target.value); draw(); });
  $("#filter").addEventListener("input", (event) => { view.filter = event.target.value; draw(); });
  $("#footer").textContent = `Written by mlm_jax on ${PAGE.written}.`;
  languages();
}

paintLanguages();
theme();
if (metrics.length) { controls(); draw(); }
else $("main").replaceChildren(el("p", { class: "card wide" }, "No run has been evaluated yet."));
