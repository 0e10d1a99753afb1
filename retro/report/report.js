"use strict";
// Draws the page from the JSON in #data. Text becomes text nodes, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const CONTROLS = ["template", "shuffled", "oracle", "last_attempt", "best_of"];
const AFTER = ["retroformer", "retroformer_offline", "sft"]; // what training made, best first

function build(space, tag, attributes, children) {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null).map((c) => (c.nodeType ? c : String(c))));
  return node;
}
const el = (tag, attributes, ...children) => build(null, tag, attributes, children);
const svg = (tag, attributes, ...children) => build("http://www.w3.org/2000/svg", tag, attributes, children);
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
const signed = (x, digits = 2) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const pretty = (method) => method.replaceAll("_", " ");
const named = (method, temperature) => (temperature === null ? pretty(method) : `${pretty(method)}, T = ${Number(temperature)}`);
const label = (report, method) => (method === "template" && report.template ? `template: ${report.template}` : named(method, report.methods[method].temperature));
const has = (object, key) => Object.prototype.hasOwnProperty.call(object, key);
const style = (method) => (/^[a-z_]+$/.test(method) ? method : "");

// ---- success by retry

function finding(report) {
  const last = (method) => report.methods[method].success_by_retry.at(-1);
  const trained = AFTER.find((method) => has(report.methods, method));
  const parts = [[trained, "with trained reflections"], ["reflexion", "with untrained ones"], ["template", "with a constant plan"], ["react", "without any"]]
    .filter(([method]) => method && has(report.methods, method))
    .map(([method, words], i) => [el(i ? "span" : "strong", {}, percent(last(method))), ` ${words}`]);
  const n = Object.values(report.methods)[0].n;
  const retries = Object.values(report.methods)[0].success_by_retry.length - 1;
  const text = el("p", { class: "finding" }, `${n} tasks of ${report.env} (${report.split.split("/").at(-1)}), solved after ${retries} ${retries === 1 ? "retry" : "retries"}: `);
  parts.forEach((part, i) => text.append(i ? ", " : "", ...part));
  text.append(".");
  return text;
}

function successChart(report, width) {
  const methods = Object.entries(report.methods);
  const retries = methods[0][1].success_by_retry.length - 1;
  const narrow = width < 440, height = 330, left = 40, top = 12, bottom = 36;
  const names = methods.map(([name, m]) => `${String(Math.round(100 * m.success_by_retry.at(-1))).padStart(3, "\u2007")} ${narrow ? pretty(name) : label(report, name)}`);
  const right = (narrow ? 10 : 16) + 7 * Math.max(...names.map((name) => name.length));
  const when = (retry) => (retry ? `${narrow ? "" : "retry "}${retry}` : narrow ? "first" : "first trial");
  const spread = Math.min(9, (width - left - right) / (retries + 1) / methods.length / 1.6);
  const shared = new Set(methods.map(([, m]) => m.success_by_retry[0])).size === 1; // all start from the same first trials
  const aside = (retry, i) => (shared && retry === 0 ? 0 : (i - (methods.length - 1) / 2) * spread);
  const x = (retry, i) => left + (narrow ? 16 : 32) + (retry / Math.max(retries, 1)) * (width - left - right - (narrow ? 42 : 72)) + aside(retry, i);
  const y = (share) => top + (1 - share) * (height - top - bottom);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, preserveAspectRatio: "xMinYMid", role: "img", "aria-label": `Success by retry, ${report.env}` });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    chart.append(svg("line", { class: share ? "grid" : "axis", x1: left, x2: width - right, y1: y(share), y2: y(share) }));
    chart.append(svg("text", { x: left - 8, y: y(share) + 4, "text-anchor": "end" }, share === 1 ? "100 %" : 100 * share));
  }
  for (let r = 0; r <= retries; r++) chart.append(svg("text", { x: x(r, (methods.length - 1) / 2), y: height - 14, "text-anchor": "middle" }, when(r)));
  const labels = methods.map(([name, m], i) => ({ i, at: y(m.success_by_retry.at(-1)) })).sort((a, b) => a.at - b.at);
  labels.forEach((label, k) => (label.y = k ? Math.max(label.at, labels[k - 1].y + 16) : label.at));
  labels.reduceRight((limit, label) => (label.y = Math.min(label.y, limit)) - 16, height - bottom);
  methods.forEach(([name, m], i) => {
    const kind = AFTER.indexOf(name) === 0 || AFTER.indexOf(name) === 1 ? "main" : CONTROLS.includes(name) ? "control" : "";
    const group = svg("g", { class: `series ${kind} ${style(name)}` });
    const points = m.success_by_retry.map((share, r) => [x(r, i), y(share)]);
    group.append(svg("path", { class: "line", d: "M" + points.join("L") }));
    points.forEach(([px, py], r) => {
      const [low, high] = m.ci95[r];
      if (i === 0 || r || !shared) group.append(svg("path", { class: "interval", d: `M${px} ${y(low)}V${y(high)}` }));
      group.append(svg("circle", { cx: px, cy: py, r: kind === "main" ? 4 : 3 }, svg("title", {}, `${label(report, name)}, ${r ? `retry ${r}` : "first trial"}: ${percent(m.success_by_retry[r])} [${percent(low)}, ${percent(high)}]`)));
    });
    group.append(svg("text", { x: width - right + (narrow ? 8 : 14), y: labels.find((one) => one.i === i).y + 4 }, names[i]));
    const choose = (on) => () => { chart.classList.toggle("chosen", on); group.classList.toggle("on", on); };
    group.addEventListener("pointerenter", choose(true));
    group.addEventListener("pointerleave", choose(false));
    chart.append(group);
  });
  return chart;
}

// rows: the row's name, then its cells: texts or lists of texts and nodes
function table(caption, head, rows) {
  const cells = ([name, ...own]) => el("tr", {}, el("th", { scope: "row" }, name), ...own.map((cell) => el("td", {}, ...[cell].flat())));
  return el("div", { class: "scroll" }, el("table", {}, el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, ...rows.map(cells))));
}

function successTable(caption, results) {
  const head = results[0][1].success_by_retry.map((_, r) => (r ? `retry ${r}` : "first trial"));
  const range = (bounds) => el("small", {}, `[${bounds.map((b) => Math.round(100 * b)).join(", ")}]`);
  return table(caption, ["method", ...head], results.map(([name, m]) => [name, ...m.success_by_retry.map((share, r) => [percent(share), " ", range(m.ci95[r])])]));
}

function numbers(report) {
  const times = report.repeats > 1 ? `, ${report.repeats} times each` : "";
  const runs = report.runs.length > 1 ? `, adapters of ${report.runs.length} runs` : "";
  const own = successTable(`${report.env}, ${report.split}, seed ${report.seed}${times}${runs}; panel ${report.panel.slice(0, 12)}`,
    Object.entries(report.methods).map(([name, m]) => [label(report, name), m]));
  const others = Object.entries(report.methods).flatMap(([name, m]) => Object.entries(m.by_temperature || {})
    .filter(([t]) => Number(t) !== m.temperature).sort(([a], [b]) => a - b).map(([t, result]) => [named(name, t), result]));
  return others.length ? [own, el("details", {}, el("summary", {}, "At other temperatures"), successTable(report.env, others))] : [own];
}

// The trained methods less each other one, task by task, at retry 1 and the last.
function pairs(report) {
  const points = (share) => (Math.round(100 * share) ? signed(100 * share, 0) : "0");
  return Object.entries(report.comparisons).filter(([, rivals]) => Object.keys(rivals).length).map(([trained, rivals]) => {
    const last = Object.values(rivals)[0].p.length - 1;
    const shown = [...new Set([Math.min(1, last), last])];
    return table(`${report.env}: ${label(report, trained)}, less another method`,
      ["less", ...shown.flatMap((r) => [r ? `retry ${r}` : "first trial", "won : lost", "p"])],
      Object.entries(rivals).map(([name, c]) => [label(report, name), ...shown.flatMap((r) => [
        [points(c.difference_by_retry[r]), " ", el("small", {}, `[${c.ci95[r].map(points).join(", ")}]`)],
        `${c.wins[r]} : ${c.losses[r]}`, c.p[r] < 0.001 ? "< 0.001" : c.p[r].toFixed(3)])]));
  });
}

// What reflections on first trials say, checked.
function truth(report) {
  const checked = Object.entries(report.methods).filter(([, m]) => m.faithfulness);
  if (!checked.length) return [];
  const told = (value, text) => (Number.isFinite(value) ? text(value) : "-");
  const causes = (kinds) => Object.entries(kinds).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([kind, n]) => `${kind || "none"} ${n}`).join(", ");
  return [table(`${report.env}: reflections on first trials`,
    ["method", "reflections", "cause true", "plan sound", "place right", "invented", "notes true", "I(kind)", "I(trial)", "most frequent causes"],
    checked.map(([name, { faithfulness: f, mutual_information }]) => [label(report, name), f.n,
      ...[f.cause, f.sound, f.place, f.invented, f.notes].map((share) => told(share, percent)),
      ...[f.kind_information, mutual_information].map((nats) => told(nats, (x) => x.toFixed(2))), causes(f.kinds)]))];
}

// ---- learning curves

const CURVES = [
  ["mean_rating", "mean rating ΔG", 3], ["success", "success of the next trial", 2],
  ["well_formed", "well-formed share", 2], ["distinct", "distinct share", 2],
  ["kl", "KL to the base, nats", 2], ["entropy", "entropy, nats a token", 2],
  ["value_loss", "value error, rating²", 3], ["explained_variance", "explained variance (critic)", 2],
];
const SHARES = ["success", "well_formed", "distinct"];

// [title, digits, row -> value, is it a share] of each curve that was logged; ratings by environment too
function curves() {
  const all = CURVES.map(([key, title, digits]) => [title, digits, (row) => row[key], SHARES.includes(key)]);
  const parts = new Set(data.metrics.flatMap((row) => Object.keys(row.mean_rating_by_env || {})));
  if (parts.size > 1) all.splice(1, 0, ...[...parts].map((env) => [`mean rating, ${env}`, 3, (row) => (row.mean_rating_by_env || {})[env], false]));
  return all.filter(([, , get]) => data.metrics.some((row) => Number.isFinite(get(row))));
}

// the same of what reflections say, by environment; older runs did not log it
function truths() {
  const parts = [...new Set(data.metrics.flatMap((row) => Object.keys(row.mutual_information || {})))];
  const checked = [["cause", "cause true"], ["sound", "plan sound"], ["invented", "invented"], ["notes", "notes true"]];
  return parts.flatMap((env) => [
    ...checked.map(([key, title]) => [`${title}, ${env}`, 2, (row) => ((row.faithfulness || {})[env] || {})[key], true]),
    [`I(trial), ${env}, nats`, 2, (row) => (row.mutual_information || {})[env], false],
  ]).filter(([, , get]) => data.metrics.some((row) => Number.isFinite(get(row))));
}

function curve([title, digits, get, share], width, panels) {
  const rows = data.metrics.filter((row) => Number.isFinite(get(row)));
  const height = 116, left = 38, top = 8, bottom = 20, right = 6;
  const values = rows.map(get);
  let low = Math.min(...values, 0), high = share ? 1 : Math.max(...values, 0);
  if (high === low) high = low + 1;
  const first = rows[0].update, last = Math.max(rows.at(-1).update, first + 1);
  const x = (update) => left + ((update - first) / (last - first)) * (width - left - right);
  const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${title}: from ${values[0]} to ${values.at(-1)}` });
  for (const value of [low, high]) {
    chart.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    chart.append(svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, Number(value.toPrecision(2))));
  }
  if (low < 0 && high > 0) chart.append(svg("line", { class: "zero", x1: left, x2: width - right, y1: y(0), y2: y(0) }));
  chart.append(svg("text", { x: left, y: height - 4 }, first + 1), svg("text", { x: width - right, y: height - 4, "text-anchor": "end" }, `update ${rows.at(-1).update + 1}`));
  chart.append(svg("path", { class: "curve", d: "M" + rows.map((row) => [x(row.update), y(get(row))]).join("L") }));
  const cross = svg("line", { class: "cross", y1: top, y2: height - bottom, visibility: "hidden" });
  const dot = svg("circle", { class: "dot", r: 3 });
  chart.append(cross, dot);
  const value = el("b", {});
  const show = (update) => {
    const row = update === null ? rows.at(-1) : rows.reduce((a, b) => (Math.abs(b.update - update) < Math.abs(a.update - update) ? b : a));
    value.textContent = get(row).toFixed(digits);
    dot.setAttribute("cx", x(row.update));
    dot.setAttribute("cy", y(get(row)));
    cross.setAttribute("x1", x(row.update));
    cross.setAttribute("x2", x(row.update));
    cross.setAttribute("visibility", update === null ? "hidden" : "visible");
  };
  show(null);
  panels.push(show);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const at = first + (((event.clientX - box.left) * (width / box.width) - left) / (width - left - right)) * (last - first);
    panels.forEach((panel) => panel(at));
  });
  chart.addEventListener("pointerleave", () => panels.forEach((panel) => panel(null)));
  return el("figure", {}, el("figcaption", {}, title, value), chart);
}

function drawCharts() {
  const gap = 24, all = $("success").clientWidth;
  const columns = Math.min(data.reports.length, Math.max(1, Math.floor((all + gap) / (460 + gap))));
  const width = Math.min((all - gap * (columns - 1)) / columns, 760);
  $("success").replaceChildren(...data.reports.map((report) => el("figure", {}, data.reports.length > 1 ? el("h3", {}, report.env) : null, successChart(report, width))));
  const room = $("curves").clientWidth, side = 28;
  const across = Math.max(1, Math.floor((room + side) / (250 + side)));
  const panels = [];
  for (const [id, known] of [["curves", curves()], ["truths", truths()]])
    $(id).replaceChildren(...known.map((one) => curve(one, (room - side * (across - 1)) / across, panels)));
  if (!$("curves").childElementCount) $("curves").append(el("p", { class: "meta" }, "No update was made."));
}

const runs = data.reports[0].runs.length;
$("run").textContent = `Run ${data.run.name}, seed ${data.run.seed}${runs > 1 ? `: the first of ${runs}, whose curves and episodes these are` : ""}. Intervals are 95 %, over tasks${runs > 1 ? " and runs" : ""}.`;
document.title = `Retroformer: ${data.run.name}`;
$("findings").append(...data.reports.map(finding));
$("numbers").append(...data.reports.flatMap(numbers));
$("pairs").append(...data.reports.flatMap(pairs));
$("pairs").nextElementSibling.hidden = !$("pairs").childElementCount;
$("said").append(...data.reports.flatMap(truth));
$("truth").hidden = !$("said").childElementCount;
drawCharts();
let drawn = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== drawn) drawCharts();
  drawn = window.innerWidth;
});
