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

const SCORES = { csls: "CSLS", cosine: "Cosine", ratio_margin: "Ratio margin" };
function retrieval() {
  if (!PAGE.retrieval) return;
  const { languages, scores, candidates, step } = PAGE.retrieval, root = section("retrieval"), dense = languages.length > 14;
  const every = Math.ceil(languages.length / 40); // of more names, the lines would overlap; hovering tells them
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
    const name = (code, kind = "") => el("div", { class: `name ${kind}`, "data-language": code || null, title: code ? languageName(code) : null }, languages.indexOf(code) % every ? "" : code || "");
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
