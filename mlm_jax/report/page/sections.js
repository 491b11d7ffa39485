// The sections of the page, from top to bottom; each one shows itself if the run has what it draws.

const section = (id) => { const node = $(`#${id}`); node.hidden = false; return node; };

function header() {
  const mean = PAGE.table.find((row) => row.language === "mean") || {};
  const lines = (metric) => PAGE.curves[metric]?.eval?.mean;
  const tile = (label, value, note = "") => el("div", { class: "tile" }, [
    el("div", { class: "label" }, label), el("div", { class: "value" }, value), el("div", { class: "note" }, note)]);
  const tiles = [];
  if (mean.retrieval_at_1 != null) {
    const chance = PAGE.retrieval ? `chance ${percent(1 / PAGE.retrieval.candidates, 2)}` : "";
    tiles.push(tile("Mean retrieval@1", percent(mean.retrieval_at_1), chance));
  }
  if (mean.loss != null) {
    const first = lines("loss")?.[0]?.[1];
    tiles.push(tile("Held-out loss", mean.loss.toFixed(3), first !== undefined ? `from ${first.toFixed(3)}` : "nats a token"));
    tiles.push(tile("Perplexity", decimals(Math.exp(mean.loss)), "exp of the held-out loss"));
  }
  if (mean.bits_per_byte != null) tiles.push(tile("Bits per byte", mean.bits_per_byte.toFixed(3), "held-out, mean of languages"));
  const tokens = PAGE.table.reduce((sum, row) => sum + (row.language === "mean" ? 0 : row.tokens || 0), 0);
  if (tokens) tiles.push(tile("Tokens seen", compact(tokens), `in ${PAGE.steps.toLocaleString("en")} steps`));
  const speed = PAGE.run.find((curve) => curve.title === "Tokens per second")?.points.map((p) => p[1]).sort((a, b) => a - b);
  if (speed) tiles.push(tile("Tokens per second", compact(speed[speed.length >> 1]), "median"));
  const utilisation = PAGE.run.find((curve) => curve.title.startsWith("Model FLOPs"))?.points.map((p) => p[1]).sort((a, b) => a - b);
  if (utilisation) tiles.push(tile("MFU", percent(utilisation[utilisation.length >> 1]), "model FLOPs utilisation, median"));
  const seconds = Object.values(PAGE.goodput).reduce((a, b) => a + b, 0);
  if (seconds) tiles.push(tile("Goodput", percent(PAGE.goodput.step / seconds), `in steps, of ${duration(seconds)}`));
  $("#tiles").replaceChildren(...tiles);
  const { best } = PAGE;
  $("#summary").textContent = PAGE.facts.join(" · ") + (best ? ` · best checkpoint by ${best.metric}: step ${best.step.toLocaleString("en")} (${decimals(best.value)})` : "");
  if (best && best.step !== PAGE.steps) $("#table .about").textContent += ` The table is of the last step; eval, export and load take step ${best.step.toLocaleString("en")}.`;
  $("#footer").textContent = `Step ${PAGE.steps.toLocaleString("en")}; written by mlm_jax on ${PAGE.written}.`;
}

const duration = (seconds) => (seconds < 5400 ? `${decimals(Math.round(seconds / 6) / 10)} min` : `${decimals(Math.round(seconds / 360) / 10)} h`);

function legend() {
  if (PAGE.languages.length > 40) return void ($("#legend").hidden = true); // rows of the table do the same when they are hovered over
  $("#legend").replaceChildren(...PAGE.languages.map((code) => {
    const button = el("button", { type: "button", "data-language": code, "aria-pressed": "false" }, languageName(code));
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && focusLanguage(code));
    button.addEventListener("pointerleave", () => focusLanguage(null));
    button.addEventListener("click", () => {
      pinned = pinned === code ? null : code;
      for (const other of $("#legend").children) other.setAttribute("aria-pressed", other.dataset.language === pinned);
      focusLanguage(null);
    });
    return button;
  }));
}

function finalTable() {
  const root = $("#table"), body = $("tbody", root);
  if (!body) return void (root.hidden = true);
  const rows = [...body.rows].filter((row) => row.dataset.language), heads = [...$("thead tr", root).cells];
  for (const row of rows) {
    const code = row.dataset.language, name = languageName(code);
    if (name !== code) row.cells[0].append(el("small", {}, name)); // a code without a name stands once
    row.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && focusLanguage(code));
    row.addEventListener("pointerleave", () => focusLanguage(null));
  }
  const sort = (column, down) => {
    heads.forEach((head, i) => (i === column ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
    const value = (row) => (column ? Number(row.cells[column].dataset.value || -Infinity) : row.dataset.language);
    body.prepend(...rows.sort((a, b) => (value(a) < value(b) ? -1 : 1) * (down ? -1 : 1)));
  };
  heads.forEach((head, column) => head.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") !== "descending" && column > 0)));
  $(".download", root).onclick = () => download(`${PAGE.title}.csv`, [heads.map((head) => head.textContent),
    ...[...body.rows].map((row) => [row.dataset.language || "mean", ...[...row.cells].slice(1).map((cell) => cell.dataset.value)])]);
  const ranked = PAGE.table.some((row) => row.loss != null) && PAGE.languages.length > MANY;
  choices($(".choices", root), ranked ? ["all", "worst", "best"] : ["all"], (name) => ({ all: `all ${PAGE.languages.length}`, worst: "worst ten by loss", best: "best ten by loss" })[name], (name) => {
    const shown = name === "all" ? PAGE.languages : byLoss(name === "worst").slice(0, 10);
    for (const row of rows) row.hidden = !shown.includes(row.dataset.language.split(":")[0]); // "de:wiki" goes with "de"
    const loss = heads.findIndex((head) => head.textContent === "loss");
    if (name !== "all") sort(loss, name === "worst");
  });
}

// ---- groups of languages, for pages with more than can be told apart
const MANY = 12;
const lossOf = Object.fromEntries(PAGE.table.map((row) => [row.language, row.loss]));
const byLoss = (down) => PAGE.languages.filter((code) => lossOf[code] != null).sort((a, b) => (lossOf[a] - lossOf[b]) * (down ? -1 : 1));
const scriptNames = new Intl.DisplayNames(["en"], { type: "script" });
function scriptOf(code) {
  try { return scriptNames.of(new Intl.Locale(code.replaceAll("_", "-")).maximize().script); } catch { return "unknown script"; }
}
function groupings() {
  const found = { script: scriptOf }, tokens = Object.fromEntries(PAGE.table.map((row) => [row.language, row.tokens]));
  const families = Object.entries(PAGE.families);
  if (families.length) found.family = (code) => families.find(([, codes]) => codes.includes(code))?.[0] ?? "no family";
  const ranked = PAGE.languages.filter((code) => tokens[code] != null).sort((a, b) => tokens[b] - tokens[a]);
  if (ranked.length === PAGE.languages.length) {
    const names = ["third with most text", "middle third", "third with least text"];
    found["amount of text"] = (code) => names[Math.floor((3 * ranked.indexOf(code)) / ranked.length)];
  }
  return found;
}
// A group's mean, and the tenth and ninetieth percentile of its languages, at the steps that all of them have.
function groupLines(curves, groupOf) {
  const groups = new Map();
  for (const code of PAGE.languages.filter((code) => curves[code])) groups.set(groupOf(code), [...(groups.get(groupOf(code)) || []), code]);
  return [...groups].sort((a, b) => b[1].length - a[1].length).map(([name, codes]) => {
    const steps = new Map();
    for (const code of codes) for (const [step, value] of curves[code]) steps.set(step, [...(steps.get(step) || []), value]);
    const whole = [...steps].filter(([, values]) => values.length === codes.length).sort((a, b) => a[0] - b[0]);
    const quantile = (values, share) => [...values].sort((a, b) => a - b)[Math.round(share * (values.length - 1))];
    return { label: `${name} (${codes.length})`, language: name, points: whole.map(([step, values]) => [step, values.reduce((a, b) => a + b) / values.length]),
      area: codes.length > 2 ? whole.map(([step, values]) => [step, quantile(values, 0.1), quantile(values, 0.9)]) : undefined };
  });
}

// ---- what stands on the horizontal axis
function tokensAt(step) {
  const points = [[0, 0], ...PAGE.tokens], after = points.findIndex((p) => p[0] >= step);
  if (after < 0) return points.at(-1)[1];
  if (after === 0) return points[0][1];
  const [[a, low], [b, high]] = [points[after - 1], points[after]];
  return low + ((step - a) / (b - a || 1)) * (high - low);
}
const onTokens = (points) => points.map(([step, ...values]) => [tokensAt(step), ...values]);

function curves() {
  const metrics = Object.keys(PAGE.curves);
  if (!metrics.length) return;
  const root = section("curves"), groups = groupings(), many = PAGE.languages.length > MANY;
  const names = new Set(Object.values(groups).flatMap((groupOf) => PAGE.languages.map(groupOf)));
  if (many) paintLanguages([...names]);
  const view = { metric: metrics[0], languages: many ? Object.keys(groups).at(-1) : "all", axis: "steps" };
  const select = (label, key, values) => {
    if (values.length < 2) return null;
    const node = el("select", {}, values.map((value) => el("option", { value, selected: value === view[key] ? "" : null }, value)));
    node.addEventListener("change", () => { view[key] = node.value; draw(); });
    return el("label", {}, [`${label} `, node]);
  };
  $(".options", root).replaceChildren(...[
    select("languages", "languages", many ? ["all", "worst ten", "best ten", ...Object.keys(groups)] : ["all"]),
    select("over", "axis", PAGE.tokens.length > 1 ? ["steps", "tokens"] : ["steps"]),
  ].filter(Boolean));
  const draw = () => {
    const { train = {}, eval: held = {} } = PAGE.curves[view.metric], { label, format, about } = metricInfo(view.metric);
    const chosen = view.languages === "worst ten" ? byLoss(true).slice(0, 10) : view.languages === "best ten" ? byLoss(false).slice(0, 10) : PAGE.languages;
    const groupOf = groups[view.languages];
    let lines = groupOf ? groupLines(Object.keys(held).length ? held : train, groupOf) : [
      ...chosen.filter((code) => train[code]).map((code) => ({ label: code, language: code, kind: Object.keys(held).length ? "train" : undefined, points: train[code] })),
      ...chosen.filter((code) => held[code]).map((code) => ({ label: code, language: code, points: held[code] })),
    ];
    if (held.mean) lines.push({ label: "mean", kind: "average", points: held.mean });
    if (view.axis === "tokens") lines = lines.map((line) => ({ ...line, points: onTokens(line.points), area: line.area && onTokens(line.area) }));
    $(".about", root).textContent = groupOf ? `${about.replace(" (lines with dots) and of training text (thin lines)", "")} Lines are means of groups, shades hold eight of ten languages.` : about;
    const host = el("div", { class: "chart" });
    $(".chart", root).replaceWith(host);
    const bands = PAGE.phases.map(([from, to, name]) => (view.axis === "tokens" ? [tokensAt(from), tokensAt(to), name] : [from, to, name]));
    const unit = { Loss: "loss, nats a token", "Bits per byte": "bits per byte" }[label] || label.toLowerCase();
    lineChart(host, { lines, format: format === percent ? share : format, zero: format === percent, bands, xLabel: view.axis, yLabel: unit });
    $(".drawing", root).onclick = () => downloadDrawing(`${PAGE.title}-${view.metric.replaceAll("/", "-")}.svg`, $("svg", host));
    $(".download", root).onclick = () => download(`${PAGE.title}-${view.metric.replaceAll("/", "-")}.csv`, [["split", "language", "step", "value"],
      ...Object.entries({ train, "held-out": held }).flatMap(([split, found]) => Object.entries(found).flatMap(([code, points]) => points.map(([step, value]) => [split, code, step, value])))]);
  };
  choices($(".choices", root), metrics, (metric) => metricInfo(metric).label, (metric) => { view.metric = metric; draw(); });
}

// A point a language: how well it did against how much of its text was seen.
function scale() {
  const rows = PAGE.table.filter((row) => row.language !== "mean" && row.tokens > 0);
  const metrics = ["loss", "bits_per_byte", "accuracy", "retrieval_at_1"].filter((name) => rows.some((row) => row[name] != null));
  if (rows.length < 4 || !metrics.length) return;
  const root = section("scale");
  choices($(".choices", root), metrics, (metric) => metricInfo(metric).label, (metric) => {
    const points = rows.filter((row) => row[metric] != null), { label, format } = metricInfo(metric), values = points.map((row) => row[metric]);
    const host = el("div", { class: "chart" });
    $(".chart", root).replaceWith(host);
    const [low, high] = [Math.min(...values), Math.max(...values)], pad = (high - low || 1) * 0.08;
    const [left, right] = [Math.min(...points.map((row) => Math.log10(row.tokens))), Math.max(...points.map((row) => Math.log10(row.tokens)))];
    const round = Array.from({ length: 3 * Math.ceil(right - Math.floor(left) + 1) }, (_, i) => [1, 2, 5][i % 3] * 10 ** (Math.floor(left) + Math.floor(i / 3)));
    const within = round.filter((tick) => tick >= 10 ** left && tick <= 10 ** right);
    const decades = within.length > 1 ? within : niceTicks(10 ** left, 10 ** right, 5);
    $(".about", root).textContent = `Held-out ${label.toLowerCase()} against tokens seen (logarithmic), a point a language.`;
    responsive(host, (width) => {
      const height = Math.round(Math.min(Math.max(width * 0.42, 280), 440)), margin = { left: 66, right: 34, top: 24, bottom: 42 };
      const x = (tokens) => margin.left + ((Math.log10(tokens) - left) / (right - left || 1)) * (width - margin.left - margin.right);
      const y = (value) => height - margin.bottom - ((value - low + pad) / (high - low + 2 * pad)) * (height - margin.top - margin.bottom);
      const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
      for (const tick of niceTicks(low - pad, high + pad, 6)) drawing.append(svg("line", { class: "gridline", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: margin.left - 8, y: y(tick) + 4, "text-anchor": "end" }, format === percent ? share(tick) : format(tick)));
      for (const tick of decades) drawing.append(svg("text", { x: x(tick), y: height - 22, "text-anchor": "middle" }, compact(tick)));
      drawing.append(svg("text", { x: (margin.left + width) / 2, y: height - 4, "text-anchor": "middle" }, "tokens seen"), svg("text", { x: 0, y: 12 }, label.toLowerCase()));
      const taken = [];
      for (const row of points) {
        const [px, py] = [x(row.tokens), y(row[metric])];
        const point = svg("circle", { class: "point", cx: px, cy: py, r: 5, "data-language": row.language });
        tooltip.on(point, () => [el("b", {}, languageName(row.language)), `${compact(row.tokens)} tokens, ${label.toLowerCase()} ${format(row[metric])}`]);
        drawing.append(point);
        if (taken.some(([a, b]) => Math.abs(a - px) < 24 && Math.abs(b - py) < 13)) continue; // its label would cover another
        taken.push([px, py]);
        drawing.append(svg("text", { class: "end", x: px + 8, y: py + 4, "data-language": row.language }, row.language));
      }
      host.replaceChildren(drawing);
    });
  });
}

const SCORES = { csls: "CSLS", cosine: "Cosine", ratio_margin: "Ratio margin" };
function retrieval() {
  if (!PAGE.retrieval) return;
  const { languages, scores, candidates, step } = PAGE.retrieval, root = section("retrieval"), dense = languages.length > 14;
  const mean = (values) => { const known = values.filter((v) => v != null); return known.length ? known.reduce((a, b) => a + b) / known.length : null; };
  choices($(".choices", root), Object.keys(SCORES).filter((score) => scores[score]), (score) => SCORES[score], (score) => {
    const matrix = scores[score], average = mean(matrix.flat());
    $(".about", root).textContent = `Accuracy@1 in percent, from row to column, among ${candidates.toLocaleString("en")} held-out sentences at step ` +
      `${step.toLocaleString("en")}. Mean ${percent(average)}; chance ${percent(1 / candidates, 2)}.`;
    const cell = (value, from, to, kind = "") => {
      const classes = `cell ${kind} ${value == null ? "none" : value > 0.65 ? "strong" : value > 0.5 ? "middling" : ""}`;
      const languagesOfCell = [from, to].filter(Boolean).join(" ");
      const node = el("div", { class: classes, style: value == null ? null : `--v:${0.06 + 0.94 * value}`, "data-language": languagesOfCell },
        value == null || dense ? "" : (100 * value).toFixed(0));
      if (value != null) tooltip.on(node, () => [el("b", {}, percent(value)),
        from && to ? `${languageName(from)} → ${languageName(to)}` : from ? `from ${languageName(from)}, mean` : to ? `to ${languageName(to)}, mean` : "mean of all pairs"]);
      return node;
    };
    const grid = el("div", { class: "grid", style: `grid-template-columns: auto repeat(${languages.length + (dense ? 0 : 1)}, minmax(0, 1fr))` });
    const name = (code, kind = "") => el("div", { class: `name ${kind}`, "data-language": code || null, title: code ? languageName(code) : null }, code || "");
    grid.append(name(""), ...languages.map((code) => name(code)), ...(dense ? [] : [name("", "")]));
    languages.forEach((from, i) => {
      grid.append(name(from, "row"), ...languages.map((to, j) => cell(matrix[i][j], from, to)));
      if (!dense) grid.append(cell(mean(matrix[i]), from, null, "average"));
    });
    if (!dense) grid.append(name("", "row"), ...languages.map((to, j) => cell(mean(matrix.map((row) => row[j])), null, to, "average")), cell(average, null, null, "average"));
    const host = $(".heat", root);
    host.replaceChildren(el("div", { class: dense ? "dense" : "" }, grid));
  });
}

function map() {
  if (!PAGE.map) return;
  const root = section("map"), { texts } = PAGE.map, codes = Object.keys(texts), count = texts[codes[0]].length;
  const names = { raw: "As embedded", centred: "Each language centred" };
  choices($(".choices", root), ["raw", "centred"].filter((name) => PAGE.map[name]), (name) => names[name], (name) => {
    const { points, explained } = PAGE.map[name];
    $(".about", root).textContent = `${count} held-out sentences; lines join the translations of each. Two principal components hold ${percent(explained, 0)} of the variance.`;
    const host = el("div", { class: "chart" });
    $(".chart", root).replaceWith(host);
    const all = codes.flatMap((code) => points[code]);
    const [left, right] = [Math.min(...all.map((p) => p[0])), Math.max(...all.map((p) => p[0]))];
    const [low, high] = [Math.min(...all.map((p) => p[1])), Math.max(...all.map((p) => p[1]))];
    responsive(host, (width) => {
      const height = Math.round(width * 0.86), pad = 14;
      const x = (value) => pad + ((value - left) / (right - left || 1)) * (width - 2 * pad);
      const y = (value) => height - pad - ((value - low) / (high - low || 1)) * (height - 2 * pad);
      const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
      for (let i = 0; i < count; i++) {
        const places = codes.map((code) => [code, x(points[code][i][0]), y(points[code][i][1])]);
        const [cx, cy] = [1, 2].map((axis) => places.reduce((sum, place) => sum + place[axis], 0) / places.length);
        const star = svg("g", { class: "star" });
        star.append(...places.map(([, px, py]) => svg("line", { class: "link", x1: cx, y1: cy, x2: px, y2: py })));
        star.append(...places.map(([code, px, py]) => svg("circle", { class: "point", cx: px, cy: py, r: width < 420 ? 4 : 5, "data-language": code })));
        tooltip.on(star, () => codes.map((code) => el("div", { class: "text", "data-language": code }, el("span", { dir: "auto", lang: code }, clip(texts[code][i])))));
        star.addEventListener("pointerenter", () => [...drawing.children].forEach((other) => {
          other.classList.toggle("faint", other !== star);
          other.classList.toggle("lit", other === star);
        }));
        star.addEventListener("pointerleave", () => [...drawing.children].forEach((other) => other.classList.remove("faint", "lit")));
        drawing.append(star);
      }
      host.replaceChildren(drawing);
    });
  });
}
const clip = (text, size = 110) => (text.length > size ? `${text.slice(0, size)}…` : text);

function samples() {
  const codes = PAGE.languages.filter((code) => PAGE.samples[code]?.length);
  if (!codes.length) return;
  const root = section("samples"), many = codes.length > MANY, host = $(".samples", root);
  const card = (code) => el("div", { class: "sample", "data-language": code }, [
    el("h3", {}, [languageName(code), el("small", {}, score(PAGE.samples[code]))]),
    ...PAGE.samples[code].map((sample) => el("p", { dir: "auto", lang: code }, sample.map((part) => (typeof part === "string" ? part : blank(part, code))))),
  ]);
  const best = [...codes].sort((a, b) => known(PAGE.samples[b]) - known(PAGE.samples[a]));
  const show = (wanted) => host.replaceChildren(...(many ? (wanted ? best.filter((code) => code === wanted || languageName(code).toLowerCase().includes(wanted)) : best).slice(0, 8) : codes).map(card));
  if (many) {
    const input = el("input", { type: "search", placeholder: `the best 8 of ${codes.length}; find a language`, "aria-label": "Find a language" });
    input.addEventListener("input", () => show(input.value.trim().toLowerCase()));
    $(".choices", root).replaceChildren(input);
  }
  show("");
}
// Share of the blanks that are right, and within it the probability of what stood there.
function known(list) {
  const blanks = list.flat().filter((part) => typeof part !== "string");
  const chance = blanks.map((part) => part.guesses.find(([piece]) => piece.trim() === part.truth.trim())?.[1] ?? 0);
  return blanks.filter(isRight).length / (blanks.length || 1) + 0.001 * (chance.reduce((a, b) => a + b, 0) / (blanks.length || 1));
}
const isRight = (part) => part.guesses[0][0].trim() === part.truth.trim();
function score(list) {
  const blanks = list.flat().filter((part) => typeof part !== "string");
  return `${blanks.filter(isRight).length} of ${blanks.length} right`;
}
function blank(part, code) {
  const right = isRight(part);
  const children = right ? [part.guesses[0][0]] : [part.guesses[0][0], el("rt", {}, part.truth)];
  const node = el(right ? "span" : "ruby", { class: `blank ${right ? "right" : "wrong"}` }, children);
  tooltip.on(node, () => part.guesses.map(([piece, probability]) => el("div", { class: "guess" }, [
    el("span", { dir: "auto", lang: code }, piece), el("i", { style: `width:${Math.max(1, 90 * probability)}px` }), el("span", {}, percent(probability))])));
  return node;
}

// The mix beside the curves of the whole run.
function run() {
  const { plan, realised } = PAGE.shares, rows = PAGE.table.filter((row) => row.planned != null && row.realised != null);
  const varies = Object.values(plan).some((points) => points.some((p) => Math.abs(p[1] - points[0][1]) > 1e-6));
  const seconds = Object.entries(PAGE.goodput).filter(([, value]) => value > 0);
  if (!rows.length && !varies && !PAGE.run.length && !seconds.length) return;
  const panels = $(".panels", section("run"));
  const panel = (title, note, host) => panels.append(el("div", {}, [el("h3", {}, [title, el("small", {}, note)]), host]));
  const chart = (title, note, options) => {
    const host = el("div", { class: "chart" });
    panel(title, note, host);
    lineChart(host, { ratio: 0.5, least: 150, zero: true, bands: PAGE.phases, ...options });
  };
  if (rows.length && rows.length <= MANY) panel("The mix", "bar: realised; mark: planned", mixBars(rows));
  if (rows.length > MANY) panel("The mix", "the ten that are furthest from the plan", mixBars([...rows].sort((a, b) => Math.abs(b.realised - b.planned) - Math.abs(a.realised - a.planned)).slice(0, 10)));
  if (seconds.length) panel("Goodput", "share of the wall time of all starts", timeBars(seconds));
  if (varies && PAGE.languages.length <= 40)
    chart("The mix over steps", "dashed: planned", { format: share, lines: PAGE.languages.flatMap((code) => [
      { label: code, language: code, kind: "plan", points: plan[code] || [] },
      { label: code, language: code, kind: "bare", points: realised[code] || [] }]) });
  for (const { title, points } of PAGE.run)
    chart(title, "", { lines: [{ label: title, points, kind: "bare" }], format: title.startsWith("Model") ? share : decimals });
}
function mixBars(rows) {
  const top = Math.max(...rows.flatMap((row) => [row.planned, row.realised]));
  return el("div", { class: "bars" }, rows.flatMap((row) => {
    const track = el("div", { class: "track", "data-language": row.language }, [
      el("div", { class: "fill", style: `width:${(100 * row.realised) / top}%` }), el("div", { class: "tick", style: `left:${(100 * row.planned) / top}%` })]);
    tooltip.on(track, () => [el("b", {}, languageName(row.language)), `planned ${percent(row.planned, 2)}, realised ${percent(row.realised, 2)}`]);
    return [el("span", {}, row.language), track, el("span", { class: "number" }, percent(row.realised))];
  }));
}

function timeBars(spans) {
  const whole = spans.reduce((sum, [, value]) => sum + value, 0);
  return el("div", { class: "bars" }, [...spans].sort((a, b) => b[1] - a[1]).flatMap(([name, value]) => [
    el("span", {}, name), el("div", { class: "track" }, el("div", { class: "fill", style: `width:${(100 * value) / whole}%; --c: var(--accent)` })),
    el("span", { class: "number" }, `${percent(value / whole)} · ${duration(value)}`)]));
}

// What made the run: its last start, and how many there were.
function provenance() {
  const start = PAGE.starts.at(-1);
  if (!start) return;
  const commit = (state) => state && `${state.commit.slice(0, 12)}${state.dirty.length ? `, and ${state.dirty.length} changed file(s): ${state.dirty.slice(0, 5).join(", ")}` : ""}`;
  const facts = { command: start.command, folder: start.folder, "commit of mlm_jax": commit(start.code), "commit of the project": commit(start.project),
    packages: Object.entries({ python: start.python, ...start.packages }).map(([name, version]) => `${name} ${version}`).join(", "),
    host: `${start.host}, ${start.system}`, devices: `${start.devices}, ${start.processes} process(es)`,
    starts: PAGE.starts.map(({ step, time }) => `${time} at step ${step.toLocaleString("en")}`).slice(-6).join("; ") };
  $(".facts", section("provenance")).append(...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [el("span", {}, name), el("span", {}, value)]));
}

function config() {
  if (!PAGE.config.length) return;
  const root = section("config");
  const rows = PAGE.config.map(([key, value, changed]) => el("div", { class: changed ? "changed" : "" }, [el("span", {}, key), el("span", {}, value)]));
  $(".config", root).append(...rows);
  $("input", root).addEventListener("input", (event) => rows.forEach((row, i) => (row.hidden = !PAGE.config[i][0].includes(event.target.value))));
}

paintLanguages();
theme();
header();
legend();
finalTable();
curves();
scale();
retrieval();
map();
samples();
run();
provenance();
config();
