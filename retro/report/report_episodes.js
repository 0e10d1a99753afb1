// ---- the browser of episodes: two methods side by side on one failed trial

const methods = data.episodes.length ? Object.keys(data.episodes[0].chains) : [];
const before = methods.includes("reflexion") ? "reflexion" : methods[0];
const WHEN = { reflexion: "Before training", sft: "After imitation", retroformer: "After training", retroformer_offline: "After training, offline" };
const chosen = { env: "", outcome: "", after: AFTER.find((m) => methods.includes(m)) || methods.at(-1), shade: "advantage", at: 0 };

const solves = (episode, method) => episode.chains[method].some((retry) => retry.trial.success);
const OUTCOMES = [
  ["", () => "all", () => true],
  ["gain", () => `only ${pretty(chosen.after)} solves`, (e) => !solves(e, before) && solves(e, chosen.after)],
  ["loss", () => `only ${pretty(before)} solves`, (e) => solves(e, before) && !solves(e, chosen.after)],
  ["both", () => "both solve", (e) => solves(e, before) && solves(e, chosen.after)],
  ["none", () => "neither solves", (e) => !solves(e, before) && !solves(e, chosen.after)],
];
const inEnv = (episode) => !chosen.env || episode.env === chosen.env;
const matching = () => data.episodes.filter((e) => inEnv(e) && OUTCOMES.find(([key]) => key === chosen.outcome)[2](e));

function taskOf(observation) {
  const stated = observation.match(/(?:Your task is to|Answer by searching|Instruction):\s*(\[SEP\])?\s*([^\n]+)/);
  return stated ? stated[2] : observation.trim().split("\n").at(-1);
}

function transcript(trial, observation) {
  const page = el("pre", { tabindex: 0, "aria-label": "the trial, step by step" });
  if (observation) page.append(observation, "\n");
  for (const [action, reply] of trial.steps) page.append(el("span", { class: "act" }, `> ${action}`), `\n${reply}\n`);
  return page;
}

function verdict(trial) {
  const text = trial.success ? "solved" : `failed, score ${trial.return.toFixed(2)}`;
  const steps = trial.steps.length;
  return el("span", {}, el("span", { class: `verdict ${trial.success ? "solved" : "failed"}` }, text), ` after ${steps} ${steps === 1 ? "step" : "steps"}`);
}

// A reflection, its tokens shaded; arrows or the pointer move along it and the line below tells more.
function reflection(retry) {
  if (retry.text === null) return [el("p", { class: "reflection hint" }, "No reflection: the actor just tries again.")];
  const box = el("div", { class: "reflection" });
  const readout = el("p", { class: "readout" }, `Rating ΔG ${signed(retry.rating)}. `);
  if (!retry.tokens) {
    box.append(retry.text);
    readout.append("Longer than the reflector writes: no tokens weighed.");
    return [box, readout];
  }
  box.setAttribute("tabindex", 0);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `reflection: ${retry.text}`);
  const spans = retry.tokens.map(([text, advantage, , own, base]) => {
    const span = el("span", { class: "tok" }, text === "\n" ? "⏎" : text.trimStart());
    const strength = chosen.shade === "advantage" ? advantage : chosen.shade === "kl" ? (own - base) / 2 : 0;
    if (strength) span.classList.add(strength > 0 ? "pos" : "neg");
    span.style.setProperty("--a", Math.min(0.75, Math.abs(strength) * 0.75).toFixed(3));
    return span;
  });
  retry.tokens.forEach(([text], i) => box.append(i && /^\s/.test(text) ? " " : "", spans[i]));
  let at = -1;
  const select = (index) => {
    if (at >= 0) spans[at].classList.remove("on");
    at = Math.max(0, Math.min(spans.length - 1, index));
    spans[at].classList.add("on");
    const [text, advantage, value, own, base] = retry.tokens[at];
    readout.textContent = `“${text.trim() || "line end"}”: advantage ${signed(advantage)}, critic ${signed(value)}, KL ${signed(own - base)} nats; probability ${percent(Math.exp(own))}, of the base ${percent(Math.exp(base))}. Rating ΔG ${signed(retry.rating)}.`;
  };
  spans.forEach((span, index) => {
    span.addEventListener("pointerenter", () => select(index));
    span.addEventListener("click", () => select(index));
  });
  box.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    select(to);
  });
  return [box, readout];
}

// What the judge says of a reflection, in a few words.
function judged({ verdict }) {
  const word = (good, text) => [", ", el("span", { class: good ? "solved" : "failed" }, text)];
  if (!verdict) return [];
  return [
    ...(verdict.cause === null ? [] : word(verdict.cause, verdict.cause ? "cause true" : "cause false")),
    ...(verdict.sound === null ? [] : word(verdict.sound, verdict.sound ? "plan sound" : "plan not sound")),
    ...(verdict.invented ? word(false, "invented") : []),
    ...(verdict.notes === null ? [] : word(verdict.notes, verdict.notes ? "notes true" : "notes not true")),
  ];
}

function side(episode, method, kind) {
  const when = WHEN[method] || (CONTROLS.includes(method) ? "Control" : "");
  const name = label(data.reports.find((report) => report.env === episode.env), method);
  const column = el("section", { class: `side ${kind}` }, el("h3", {}, when ? `${when}: ${name}` : name));
  episode.chains[method].forEach((retry, i) => {
    column.append(el("p", { class: "hint ordinal" }, `Reflection ${i + 1}`, ...judged(retry)), ...reflection(retry));
    const trial = el("details", {}, el("summary", {}, `Retry ${i + 1}: `, verdict(retry.trial)), transcript(retry.trial));
    trial.open = i === 0;
    column.append(trial);
  });
  if (!episode.chains[method].length) column.append(el("p", { class: "hint" }, "No retry."));
  return column;
}

function drawEpisode(episode) {
  if (!episode) {
    $("episode").replaceChildren(el("p", { class: "hint" }, data.episodes.length ? "No episode is like that." : "No first trial failed: there is nothing to reflect on."));
    return;
  }
  const first = el("details", {}, el("summary", {}, "First trial: ", verdict(episode.first)), transcript(episode.first, episode.first.observation));
  first.open = true;
  const sides = [side(episode, before, "before")];
  if (chosen.after !== before) sides.push(side(episode, chosen.after, "after"));
  $("episode").replaceChildren(
    el("p", { class: "task" }, taskOf(episode.first.observation)),
    el("p", { class: "meta" }, `${episode.env}, ${episode.id}`),
    first,
    el("div", { class: "sides" }, ...sides),
  );
}

function choose(index) {
  const found = matching();
  chosen.at = Math.max(0, Math.min(found.length - 1, index));
  [...$("list").children].forEach((item, i) => item.setAttribute("aria-selected", i === chosen.at));
  const item = $("list").children[chosen.at];
  if (item) {
    $("list").setAttribute("aria-activedescendant", item.id);
    const list = $("list"), top = item.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + item.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + item.offsetHeight - list.clientHeight;
  } else $("list").removeAttribute("aria-activedescendant");
  drawEpisode(found[chosen.at]);
}

function drawList() {
  const mark = (episode, method) => {
    const solved = solves(episode, method);
    return el("span", {}, el("span", { class: solved ? "solved" : "failed" }, solved ? "✓" : "✗"), ` ${pretty(method)}`);
  };
  $("list").replaceChildren(...matching().map((episode, i) => {
    const notes = [...new Set([before, chosen.after])].map((method) => mark(episode, method));
    const item = el("div", { class: "item", role: "option", id: `item-${i}` }, taskOf(episode.first.observation), el("small", {}, ...notes));
    item.addEventListener("click", () => choose(i));
    return item;
  }));
  const count = (test) => data.episodes.filter((e) => inEnv(e) && test(e)).length;
  [...$("outcome").options].forEach((option, i) => (option.textContent = `${OUTCOMES[i][1]()} (${count(OUTCOMES[i][2])})`));
}

function picker(id, label, values, value, change) {
  const select = el("select", { id }, ...values.map(([key, text]) => el("option", { value: key }, text)));
  select.value = value;
  select.addEventListener("change", () => { change(select.value); drawList(); choose(0); });
  return el("label", { class: "field" }, label, select);
}

function shading() {
  const options = [["advantage", "advantage"], ["kl", "KL"], ["off", "off"]].map(([key, text]) => {
    const input = el("input", { type: "radio", name: "shade", value: key });
    input.checked = key === chosen.shade;
    input.addEventListener("change", () => { chosen.shade = key; choose(chosen.at); });
    return el("label", {}, input, text);
  });
  return el("div", { class: "field", role: "radiogroup", "aria-label": "Tokens shaded by" }, "Tokens shaded by", el("div", { class: "choices" }, ...options));
}

if (methods.length) {
  const environments = [...new Set(data.episodes.map((e) => e.env))];
  $("filters").append(
    environments.length > 1 ? picker("env", "Environment", [["", "all"], ...environments.map((e) => [e, e])], "", (v) => (chosen.env = v)) : "",
    picker("after", `Method, beside ${pretty(before)}`, methods.filter((m) => m !== before || methods.length === 1).map((m) => [m, pretty(m)]), chosen.after, (v) => (chosen.after = v)),
    picker("outcome", "Outcome", OUTCOMES.map(([key]) => [key, ""]), "", (v) => (chosen.outcome = v)),
    shading(),
  );
  const note = `${data.episodes.length} of the ${data.failed} first trials that failed. Shades run from `;
  $("episodes-note").append(note, "−1", el("span", { class: "key", role: "img", "aria-label": "red to green" }), "+1 in advantage (rating), from −2 to +2 in KL (nats), as the trained policy and its critic see each text. ",
    el("kbd", {}, "j"), " ", el("kbd", {}, "k"), " next and previous episode.");
  $("list").addEventListener("keydown", (event) => {
    const to = { ArrowDown: chosen.at + 1, ArrowUp: chosen.at - 1, Home: 0, End: Infinity }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(to);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input")) return;
    if (event.key === "j" || event.key === "k") choose(chosen.at + (event.key === "j" ? 1 : -1));
  });
  drawList();
  choose(Math.max(0, matching().findIndex(OUTCOMES[1][2])));
} else {
  $("list").remove();
  drawEpisode(null);
}
