// The curves of the run, and each language's result against the amount of its text.

// ---- what stands on the horizontal axis: steps, tokens, or the time of training without pauses
function valueAt(table, step) { // of a table [[step, value]], between whose points values grow evenly
  const points = [[0, 0], ...table], after = points.findIndex((p) => p[0] >= step);
  if (after < 0) return points.at(-1)[1];
  if (after === 0) return points[0][1];
  const [[a, low], [b, high]] = [points[after - 1], points[after]];
  return low + ((step - a) / (b - a || 1)) * (high - low);
}
const seconds = () => PAGE.times.at(-1)?.[1] ?? 0;
const AXES = {
  steps: { label: "steps", whole: true, at: (step) => step },
  tokens: { label: "tokens", whole: true, at: (step) => valueAt(PAGE.tokens, step), there: () => PAGE.tokens.length > 1 },
  time: { get label() { return seconds() < 7200 ? "minutes" : "hours"; }, whole: false, at: (step) => valueAt(PAGE.times, step) / (seconds() < 7200 ? 60 : 3600), there: () => seconds() > 0 },
};

// ---- an exponential mean of neighbours; ``weight`` is that of the past
const SMOOTHING = { none: 0, light: 0.7, strong: 0.93 };
function smoothed(points, weight) {
  let sum = 0, whole = 0;
  return points.map(([step, value]) => {
    sum = weight * sum + (1 - weight) * value;
    whole = weight * whole + 1 - weight;
    return [step, sum / whole];
  });
}

function curves() {
  const metrics = Object.keys(PAGE.curves);
  if (!metrics.length) return;
  const root = section("curves"), groups = groupings(), many = PAGE.languages.length > MANY;
  if (many) paintLanguages([...new Set(Object.values(groups).flatMap((groupOf) => PAGE.languages.map(groupOf)))]);
  const view = { metric: metrics[0], languages: many ? Object.keys(groups).at(-1) : "all", axis: "steps", smoothing: "light" };
  const select = (label, key, values) => {
    if (values.length < 2) return null;
    const node = el("select", {}, values.map((value) => el("option", { value, selected: value === view[key] ? "" : null }, value)));
    node.addEventListener("change", () => { view[key] = node.value; draw(); });
    return el("label", {}, [`${label} `, node]);
  };
  $(".options", root).replaceChildren(...[
    select("languages", "languages", many ? ["all", "worst ten", "best ten", ...Object.keys(groups)] : ["all"]),
    select("over", "axis", Object.keys(AXES).filter((name) => AXES[name].there?.() ?? true)),
    select("smoothing of training curves", "smoothing", Object.values(PAGE.curves).some((split) => split.train) ? Object.keys(SMOOTHING) : []),
  ].filter(Boolean));
  // A language's lines: training faint (raw values fainter still), held-out, and the second run's dashed.
  const linesOf = (codes, { train = {}, eval: held = {} }, second) => codes.flatMap((code) => {
    const measured = Object.keys(held).length > 0, weight = SMOOTHING[view.smoothing];
    return [
      train[code] && weight && { kind: "raw", points: train[code] },
      train[code] && { kind: measured ? "train" : undefined, points: weight ? smoothed(train[code], weight) : train[code] },
      held[code] && { points: held[code] },
      second[code] && { kind: "beside", points: second[code] },
    ].filter(Boolean).map((line) => ({ label: code, language: code, ...line }));
  });
  const draw = () => {
    const split = PAGE.curves[view.metric], { train = {}, eval: held = {} } = split, { label, format, about } = metricInfo(view.metric);
    const second = PAGE.beside?.curves[view.metric] || {}, groupOf = groups[view.languages], axis = AXES[view.axis];
    const chosen = view.languages === "worst ten" ? byLoss(true).slice(0, 10) : view.languages === "best ten" ? byLoss(false).slice(0, 10) : PAGE.languages;
    let lines = groupOf ? [...groupLines(Object.keys(held).length ? held : train, groupOf), ...groupLines(second, groupOf).map((line) => ({ ...line, kind: "beside", area: undefined }))]
      : linesOf(chosen, split, second);
    if (second.mean) lines.push({ label: "mean", kind: "beside", points: second.mean });
    if (held.mean) lines.push({ label: "mean", kind: "average", points: held.mean });
    const moved = (points) => points.map(([step, ...values]) => [axis.at(step), ...values]);
    lines = lines.map((line) => ({ ...line, points: moved(line.points), area: line.area && moved(line.area) }));
    $(".about", root).textContent = (groupOf ? `${about.replace(" (lines with dots) and of training text (thin lines)", "")} Lines are means of groups, shades show the middle 80 % of the languages.` : about)
      + (PAGE.beside ? ` Dashed: ${PAGE.beside.title}.` : "");
    const host = el("div", { class: "chart" });
    $(".chart", root).replaceWith(host);
    const bands = PAGE.phases.map(([from, to, name]) => [axis.at(from), axis.at(to), name]);
    const unit = { Loss: "loss, nats a token", "Bits per byte": "bits per byte" }[label] || label.toLowerCase();
    lineChart(host, { lines, format: format === percent ? share : format, zero: format === percent, bands, xLabel: axis.label, yLabel: unit, whole: axis.whole,
      mark: PAGE.best && [axis.at(PAGE.best.step), "best checkpoint"] });
    $(".drawing", root).onclick = () => downloadDrawing(`${PAGE.title}-${view.metric.replaceAll("/", "-")}.svg`, $("svg", host));
    $(".download", root).onclick = () => download(`${PAGE.title}-${view.metric.replaceAll("/", "-")}.csv`, [["run", "split", "language", "step", "tokens", "seconds", "value"],
      ...[[PAGE.title, "training", train], [PAGE.title, "held-out", held], [PAGE.beside?.title, "held-out", second]].flatMap(([run, name, found]) => Object.entries(found).flatMap(([code, points]) =>
        points.map(([step, value]) => [run, name, code, step, ...[PAGE.tokens, PAGE.times].map((table) => (table.length && run === PAGE.title ? Math.round(valueAt(table, step)) : "")), value])))]);
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
    $(".about", root).textContent = `Held-out ${label.toLowerCase()} against tokens seen (logarithmic), a point a language; the line through it is its 95 % interval.`;
    responsive(host, (width) => {
      const height = Math.round(Math.min(Math.max(width * 0.42, 280), 440)), margin = { left: 66, right: 34, top: 24, bottom: 42 };
      const x = (tokens) => margin.left + ((Math.log10(tokens) - left) / (right - left || 1)) * (width - margin.left - margin.right);
      const y = (value) => height - margin.bottom - ((value - low + pad) / (high - low + 2 * pad)) * (height - margin.top - margin.bottom);
      const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img" });
      for (const tick of niceTicks(low - pad, high + pad, 6)) drawing.append(svg("line", { class: "gridline", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: margin.left - 8, y: y(tick) + 4, "text-anchor": "end" }, format === percent ? share(tick) : format(tick)));
      for (const tick of decades) drawing.append(svg("text", { x: x(tick), y: height - 22, "text-anchor": "middle" }, compact(tick)));
      drawing.append(svg("text", { x: (margin.left + width) / 2, y: height - 4, "text-anchor": "middle" }, "tokens seen"), svg("text", { x: 0, y: 12 }, label.toLowerCase()));
      for (const row of points.filter((row) => row.intervals?.[metric])) drawing.append(svg("line", { class: "whisker", "data-language": row.language,
        x1: x(row.tokens), x2: x(row.tokens), y1: Math.min(y(row.intervals[metric][0]), height - margin.bottom), y2: Math.max(y(row.intervals[metric][1]), margin.top) }));
      const taken = points.map((row) => [x(row.tokens) - 6, x(row.tokens) + 6, y(row[metric])]); // [left, right, height] of points and labels
      for (const [i, row] of points.entries()) {
        const [px, py] = [x(row.tokens), y(row[metric])], long = 8 * row.language.length;
        const point = svg("circle", { class: "point", cx: px, cy: py, r: 5, "data-language": row.language });
        tooltip.on(point, () => [el("b", {}, languageName(row.language)), `${compact(row.tokens)} tokens, ${label.toLowerCase()} ${format(row[metric])}`]);
        drawing.append(point);
        const isFree = ([from, to]) => from >= margin.left && to <= width && !taken.some(([a, b, at], k) => k !== i && a < to && b > from && Math.abs(at - py) < 12);
        const place = [[px + 8, px + 8 + long], [px - 8 - long, px - 8]].find(isFree); // to the right of the point, or to its left
        if (!place) continue;
        taken.push([...place, py]);
        const isRight = place[0] > px;
        drawing.append(svg("text", { class: "end", x: isRight ? px + 8 : px - 8, y: py + 4, "text-anchor": isRight ? "start" : "end", "data-language": row.language }, row.language));
      }
      host.replaceChildren(drawing);
      $(".drawing", root).onclick = () => downloadDrawing(`${PAGE.title}-${metric}-tokens.svg`, drawing);
    });
    $(".download", root).onclick = () => download(`${PAGE.title}-${metric}-tokens.csv`, [["language", "tokens", metric, "low", "high"],
      ...points.map((row) => [row.language, row.tokens, row[metric], ...(row.intervals?.[metric] || ["", ""])])]);
  });
}
