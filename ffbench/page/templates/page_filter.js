// What is looked for, and in which order: the controls, the page's address, and the list of cases that follows.
const control = (name) => document.getElementById(name);
const FIELDS = ["q", "person", "prompt", "tag", "state", "sort", "metric", "of", "low", "high", "view", "theme"];
const DEFAULTS = { sort: "worst", metric: data.metrics[data.primary]?.id ?? "", view: "players" };
const hidden = new Set();
let wanted = { case: "", t: "" }; // the case that the address names, and its second

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const name of FIELDS) {
    const field = control(name);
    const value = asked.get(name) ?? DEFAULTS[name] ?? "";
    field.value = field.type === "number" && !Number.isFinite(Number(value)) ? "" : value;
    if (field.tagName === "SELECT" && field.selectedIndex < 0) field.value = DEFAULTS[name] ?? "";
  }
  hidden.clear();
  for (const label of asked.getAll("hide")) hidden.add(label);
  document.body.classList.toggle("outlined", asked.get("outline") === "1");
  wanted = { case: asked.get("case") ?? "", t: asked.get("t") ?? "" };
}

function address() {
  const state = new URLSearchParams();
  for (const name of FIELDS) {
    const value = control(name).value;
    if (value !== (DEFAULTS[name] ?? "")) state.set(name, value);
  }
  for (const label of hidden) state.append("hide", label);
  if (document.body.classList.contains("outlined")) state.set("outline", "1");
  if (wanted.case) state.set("case", wanted.case);
  if (wanted.t) state.set("t", wanted.t);
  return "#" + state;
}

function writeAddress() {
  history.replaceState(null, "", address());
}

function judged() {
  const label = control("of").value;
  const all = data.methods.map((method, i) => i).filter((i) => !hidden.has(data.methods[i].label));
  if (label) return all.filter((i) => data.methods[i].label === label);
  const methods = all.filter((i) => !data.methods[i].control);
  return methods.length ? methods : all;
}

function sortKey(sort, metric, methods) {
  const sign = data.metrics[metric]?.better === -1 ? -1 : 1;
  const turn = data.metrics.findIndex((one) => one.id === "pose_range");
  // a video without a value, failed or faceless, is the worst there is
  const of = (one, place, none) =>
    methods.filter((i) => one.videos[i]).map((i) => {
      const value = one.videos[i].values[place] ?? NaN;
      return Number.isNaN(value) ? none : value;
    });
  const some = (list, pick, none) => (list.length ? pick(...list) : none);
  return {
    worst: (one) => some(of(one, metric, -sign * Infinity).map((value) => sign * value), Math.min, -Infinity),
    best: (one) => -some(of(one, metric, -sign * Infinity).map((value) => sign * value), Math.max, -Infinity),
    apart: (one) => {
      const known = of(one, metric, NaN).filter((value) => !Number.isNaN(value));
      return known.length > 1 ? Math.min(...known) - Math.max(...known) : 1;
    },
    turn: (one) => -some(of(one, turn, -1), Math.max, -1),
    suite: () => 0,
  }[sort];
}

function chosen() {
  const value = Object.fromEntries(FIELDS.map((name) => [name, control(name).value]));
  const metric = Math.max(0, data.metrics.findIndex((one) => one.id === value.metric));
  const methods = judged();
  const [low, high] = [value.low === "" ? -Infinity : Number(value.low), value.high === "" ? Infinity : Number(value.high)];
  const words = value.q.toLowerCase().split(/\s+/).filter(Boolean);
  const present = (one) => methods.map((i) => one.videos[i]).filter(Boolean);
  const faces = data.metrics.findIndex((metric) => metric.id === "face_rate");
  const kinds = {
    failed: (one) => present(one).some((video) => video.failed),
    faceless: (one) => present(one).some((video) => video.values[faces] === 0),
    complete: (one) => present(one).length === methods.length && present(one).every((video) => !video.failed),
  };
  const kept = cases.filter((one) =>
    (!value.person || one.person === value.person)
    && (!value.prompt || one.promptId === value.prompt)
    && (!value.tag || one.tags.includes(value.tag))
    && words.every((word) => one.hay.includes(word))
    && (!value.state || kinds[value.state](one))
    && ((low === -Infinity && high === Infinity)
      || present(one).some((video) => video.values[metric] >= low && video.values[metric] <= high)));
  const key = sortKey(value.sort, metric, methods);
  return kept
    .map((one) => [key(one), one.place, one])
    .sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : a[0] - b[0]))
    .map((item) => item[2]);
}
