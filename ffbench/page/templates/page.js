// The page itself: fill the controls, keep list and address together, answer to keys.
const list = control("cases");
const shells = cases.map(shellOf);
let order = [];
let focused = -1;

function options(name, found) {
  const select = control(name);
  select.append(...found.map(([value, title]) => make("option", { value }, title)));
}

function distinct(pick) {
  return [...new Set(cases.flatMap(pick))].sort().map((name) => [name, name]);
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) fill(entry.target);
}, { rootMargin: "500px 0px" });
const far = new IntersectionObserver((entries) => {
  for (const entry of entries) if (!entry.isIntersecting) empty(entry.target);
}, { rootMargin: "3000px 0px" });

function arrange(jump = false) {
  order = chosen().map((one) => shells[one.place]);
  for (const shell of shells) {
    empty(shell);
    shell.style.minHeight = "";
  }
  list.replaceChildren(...order);
  // what was in view and still is would not be told of again
  for (const observer of [seen, far]) {
    observer.disconnect();
    for (const shell of order) observer.observe(shell);
  }
  focused = -1;
  const videos = order.reduce((sum, shell) => sum + shell.one.videos.filter((video) => video && !hidden.has(data.methods[video.method].label)).length, 0);
  control("count").textContent = order.length
    ? `${order.length} of ${cases.length} ${cases.length === 1 ? "case" : "cases"}, ${videos} ${videos === 1 ? "video" : "videos"}`
    : "No case fits. Esc, then “reset” shows all.";
  document.documentElement.dataset.theme = control("theme").value;
  document.body.classList.toggle("strips", control("view").value === "strips");
  for (const chip of control("methods").children) chip.querySelector("input").checked = !hidden.has(chip.dataset.label);
  const named = order.findIndex((shell) => shell.one.name === wanted.case);
  if (jump && named >= 0) {
    fill(order[named]);
    focusCase(order[named], Number(wanted.t) || 0);
  }
}

function changed() {
  wanted = { case: "", t: "" };
  arrange();
  writeAddress();
}

function focusCase(shell, time = null) {
  order[focused]?.classList.remove("focused");
  focused = order.indexOf(shell);
  shell.classList.add("focused");
  fill(shell);
  if (time !== null) {
    shell.scrollIntoView({ block: "start" });
    shell.focus({ preventScroll: true });
    if (time) shell.deck.seek(time);
  }
  wanted = { case: shell.one.name, t: shell.deck.time ? shell.deck.time.toFixed(2) : time ? String(time) : "" };
  writeAddress();
}

// where a case was left standing goes into the address
let later = 0;
function remember(shell, time) {
  if (order[focused] !== shell) return;
  wanted.t = time ? time.toFixed(2) : "";
  clearTimeout(later);
  later = setTimeout(writeAddress, 150);
}

function move(way) {
  if (order.length) focusCase(order[Math.min(Math.max(focused + way, 0), order.length - 1)], 0);
}

function press(name, value) {
  control(name).value = value;
  changed();
}

function toggleMethod(place) {
  const label = data.methods[place]?.label;
  if (label === undefined) return;
  if (!hidden.delete(label)) hidden.add(label);
  const here = order[focused];
  changed();
  if (here && order.includes(here)) focusCase(here, 0);
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  " ": () => {
    if (focused < 0) move(1);
    order[focused]?.deck?.toggle();
  },
  ArrowRight: () => order[focused]?.deck?.step(1),
  ArrowLeft: () => order[focused]?.deck?.step(-1),
  "/": () => control("q").focus(),
  b: () => { document.body.classList.toggle("outlined"); writeAddress(); for (const shell of order) shell.deck?.place(shell.deck.time); },
  f: () => press("view", control("view").value === "strips" ? "players" : "strips"),
  t: () => press("theme", { "": "dark", dark: "light", light: "" }[control("theme").value]),
  "?": () => control("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=search], input[type=number], select, textarea");
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === " " && event.target.matches("button, summary, a")) return;
  const act = KEYS[event.key] ?? (/^[1-9]$/.test(event.key) ? () => toggleMethod(Number(event.key) - 1) : null);
  if (!act) return;
  event.preventDefault();
  act();
});

function start() {
  options("person", distinct((one) => [one.person]));
  options("prompt", distinct((one) => [one.promptId]));
  options("tag", distinct((one) => one.tags));
  options("metric", data.metrics.map((metric) => [metric.id, metric.title]));
  options("of", data.methods.map((method) => [method.label, method.label]));
  control("controls").addEventListener("submit", (event) => event.preventDefault());
  control("methods").append(...data.methods.map((method, i) => make("label", { className: `chip m${i % 8}`, "data-label": method.label, title: method.summary },
    make("input", { type: "checkbox", checked: true, onchange: () => toggleMethod(i) }), method.label)));
  for (const name of FIELDS) {
    const field = control(name);
    field.addEventListener(field.tagName === "INPUT" ? "input" : "change", changed);
  }
  control("reset").addEventListener("click", () => { location.hash = ""; readAddress(); arrange(); writeAddress(); });
  control("keys").addEventListener("click", () => control("help").showModal());
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target.matches(".close")) dialog.close(); });
  }
  readAddress();
  arrange(true);
}

// an address that is typed or pasted into the open page
addEventListener("hashchange", () => {
  if (location.hash === address()) return;
  readAddress();
  arrange(true);
});
addEventListener("beforeprint", () => {
  order.slice(0, PRINTED).forEach(fill);
  for (const image of list.querySelectorAll("img")) image.loading = "eager";
  order.slice(PRINTED).forEach((shell) => shell.classList.add("unprinted"));
  control("printed").textContent = order.length > PRINTED ? `The first ${PRINTED} of ${order.length} cases are printed.` : "";
});
addEventListener("afterprint", () => order.forEach((shell) => shell.classList.remove("unprinted")));
const PRINTED = 40;
start();
