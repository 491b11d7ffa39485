// Groups of languages, for pages with more than can be told apart.
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
  if (families.length > 1) found.family = (code) => families.find(([, codes]) => codes.includes(code))?.[0] ?? "no family";
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
