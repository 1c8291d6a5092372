"use strict";
// The review page. An answer waits in this browser's storage until the server says that it is on the disk.

const TASKS = {
  pose: {
    question: "Does the face go from frontal to profile or back, or move far up or down?",
    values: [["qualified", "1"], ["unqualified", "2"]],
  },
  sample: {
    question: "Is this a good training sample: one person, sharp, true caption?",
    values: [["accept", "1"], ["reject", "2"]],
  },
};
const KEYS = [
  ["1 / 2", "the left or the right answer; the same again takes it back"], ["→ j / ← k", "next, back"],
  ["n", "next one that you have not answered"], ["space", "stop and go on"], [". / ,", "one frame on, one back"],
  ["e", "write in the caption"], ["Ctrl Enter", "save the caption"], ["Esc", "undo the change, leave the caption"],
  ["t", "the other task"], ["g", "agreement"], ["?", "this list"],
];
const WAITING = "waiting answers", RETRY_MS = 2000, FRAME_S = 1 / 16;
const $ = (id) => document.getElementById(id);
const state = { dataset: "", reviewer: "", task: "pose", clips: [], at: 0, clip: null, sending: false };

// one browser may see many data sets at one address: what is kept is kept apart
const place = (name) => `${state.dataset} ${name}`;
function kept(name, otherwise) {
  try { return JSON.parse(localStorage.getItem(place(name))) ?? otherwise; } catch { return otherwise; }
}
function keep(name, value) { localStorage.setItem(place(name), JSON.stringify(value)); }
function forget(name) { localStorage.removeItem(place(name)); }
const draft = (key) => `draft ${state.reviewer} ${key}`;

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const data = await response.json();
  if (!response.ok) throw Object.assign(new Error(data.error ?? response.statusText), { status: response.status, data });
  return data;
}

// no answer, or that of a server which no longer knows this address: another try may do
const away = (error) => !error.status || (error.status === 404 && !error.data?.unknown);

function trouble(error, of = "") {
  $("trouble").hidden = !error;
  $("trouble").dataset.of = of;
  $("trouble").textContent = error ? `${error.message}${error.data?.fix ? `: ${error.data.fix}` : ""}` : "";
}

// ---------------------------------------------------------------- answers

function shownSaved() {
  const waiting = kept(WAITING, []).length;
  $("saved").textContent = waiting ? `${waiting} not saved yet` : "saved";
  $("saved").classList.toggle("waiting", waiting > 0);
}

async function send() {
  if (state.sending) return;
  state.sending = true;
  try {
    for (let waiting = kept(WAITING, []); waiting.length; waiting = kept(WAITING, [])) {
      try {
        await ask("answer", waiting[0]);
      } catch (error) {
        // refused for good, such as a clip of another review: said, not kept for ever
        if (error.status !== 422 && (error.status !== 404 || away(error))) throw error;
        trouble(error);
      }
      keep(WAITING, kept(WAITING, []).filter((one) => one.id !== waiting[0].id));
      shownSaved();
    }
    if ($("trouble").dataset.of === "saving") trouble(null);
  } catch (error) {
    trouble(new Error(`answers are kept in this browser, and not saved yet (${error.message}); trying again`), "saving");
    setTimeout(send, RETRY_MS);
  } finally {
    state.sending = false;
    shownSaved();
  }
}

function answer(value) {
  const clip = state.clips[state.at];
  if (state.clip?.key !== clip.key) return; // nobody has seen it yet
  const taken = clip[state.task] === value ? "" : value;
  const id = [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
  keep(WAITING, [...kept(WAITING, []), { id, reviewer: state.reviewer, key: clip.key, question: state.task, value: taken }]);
  clip[state.task] = taken;
  shownSaved();
  send();
  if (taken && state.at + 1 < state.clips.length) go(state.at + 1); else drawAnswers();
}

// ---------------------------------------------------------------- the clip

function drawAnswers() {
  const clip = state.clips[state.at], task = TASKS[state.task];
  $("question").textContent = task.question;
  $("answers").replaceChildren(...task.values.map(([value, key], i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.id = `answer-${value}`;
    button.className = i ? "no" : "yes";
    button.setAttribute("aria-pressed", String(clip[state.task] === value));
    const hint = document.createElement("kbd");
    hint.textContent = key;
    button.append(value, " ", hint);
    button.addEventListener("click", () => answer(value));
    return button;
  }));
  const done = state.clips.filter((one) => one[state.task]).length;
  $("progress").textContent = `clip ${state.at + 1} of ${state.clips.length}, ${done} answered`;
  $("done").style.width = `${100 * done / state.clips.length}%`;
  for (const name of Object.keys(TASKS)) $(`task-${name}`).setAttribute("aria-checked", String(name === state.task));
}

function faces(clip) {
  // from one profile to the other where the angles are known, else in order of time
  const place = (crop) => (crop.euler ? crop.euler[1] : crop.seconds);
  const order = [...clip.crops.keys()].sort((a, b) => place(clip.crops[a]) - place(clip.crops[b]));
  $("faces").replaceChildren(...order.map((i) => {
    const crop = clip.crops[i];
    const button = document.createElement("button"), image = new Image(), text = document.createElement("span");
    button.type = "button";
    image.src = `crop?key=${encodeURIComponent(clip.key)}&number=${i}`;
    image.alt = `face at ${crop.seconds.toFixed(1)} s`;
    text.textContent = `${crop.seconds.toFixed(1)} s`;
    if (crop.euler) {
      const [pitch, yaw, roll] = crop.euler.map((angle) => CURVES.degrees(angle));
      text.append(document.createElement("br"), `yaw ${yaw}`);
      button.title = `pitch ${pitch}, yaw ${yaw}, roll ${roll}`;
    }
    button.append(image, text);
    button.addEventListener("click", () => seek(crop.seconds));
    return button;
  }));
}

function drawCaption(clip) {
  const unsaved = kept(draft(clip.key), null);
  $("caption").value = unsaved ?? clip.caption;
  $("caption-by").textContent = clip.caption_by ? `by ${clip.caption_by}` : "";
  captionNote(clip.caption_problems);
}

function captionNote(problems) {
  const changed = $("caption").value !== state.clip.caption;
  $("caption").classList.toggle("changed", changed);
  $("caption-note").textContent = changed ? "not saved" : problems.join("; ");
}

function drawClip(clip) {
  state.clip = clip;
  $("key").textContent = clip.key;
  $("source").textContent = `${clip.source}, from ${clip.start.toFixed(1)} s`;
  $("no-video").hidden = true;
  $("video").src = `video?key=${encodeURIComponent(clip.key)}`;
  $("curves").replaceChildren(...(clip.angles ? [CURVES.draw(clip, seek)] : []));
  $("verdict").textContent = clip.angles
    ? `variation ${clip.variation.toFixed(1)}° against ${clip.threshold.toFixed(0)}°: ${clip.verdict}${clip.reason ? `, ${clip.reason}` : ""}`
    : "blind: angles and verdict are not shown";
  faces(clip);
  drawCaption(clip);
  $("main").hidden = false;
  $("main").classList.remove("loading");
}

async function go(at) {
  state.at = Math.min(Math.max(at, 0), state.clips.length - 1);
  keep("last", state.clips[state.at].key);
  drawAnswers();
  const key = state.clips[state.at].key;
  $("main").classList.add("loading");
  try {
    const clip = await ask(`clip?key=${encodeURIComponent(key)}`);
    if (state.clips[state.at].key !== key) return; // somebody presses keys faster than clips come
    drawClip(clip);
    trouble(null);
  } catch (error) {
    if (state.clips[state.at].key !== key) return;
    $("main").hidden = true;
    trouble(away(error) ? new Error("the review does not answer; start it again, this page goes on by itself") : error);
    if (away(error)) setTimeout(() => { if (state.clips[state.at].key === key) go(state.at); }, RETRY_MS);
  }
  // the next one is made ready meanwhile
  const after = state.clips[state.at + 1];
  if (after) fetch(`clip?key=${encodeURIComponent(after.key)}`).catch(() => {});
}

function nextOpen() {
  const order = [...state.clips.keys()].map((i) => (state.at + 1 + i) % state.clips.length);
  const found = order.find((i) => !state.clips[i][state.task]);
  if (found !== undefined) go(found);
}

function seek(second) {
  const video = $("video");
  video.pause();
  video.currentTime = second;
}

function choose(task) {
  state.task = task;
  keep("task", task);
  drawAnswers();
}

// ---------------------------------------------------------------- captions

async function saveCaption() {
  const clip = state.clip, prompt = $("caption").value;
  try {
    const said = await ask("caption", { reviewer: state.reviewer, key: clip.key, prompt, base: clip.caption });
    forget(draft(clip.key));
    Object.assign(clip, { caption: said.caption, caption_by: said.caption_by, caption_problems: said.problems });
    if (state.clip === clip) { drawCaption(clip); $("caption").blur(); }
    trouble(null);
  } catch (error) {
    if (error.data?.caption !== undefined) {
      clip.caption = error.data.caption;
      $("caption-note").textContent = `Somebody else has changed it meanwhile to: "${clip.caption}" Save again to put yours in its place.`;
    } else {
      trouble(new Error(`the caption is not saved: ${error.message}`));
    }
  }
}

function dropCaption() {
  forget(draft(state.clip.key));
  drawCaption(state.clip);
  $("caption").blur();
}

// ---------------------------------------------------------------- people

async function showAgreement() {
  const pairs = await ask("agreement");
  const row = (cells, kind) => {
    const made = document.createElement("tr");
    for (const cell of cells) {
      const part = document.createElement(kind);
      part.textContent = cell;
      made.append(part);
    }
    return made;
  };
  const rows = pairs.map((pair) => row([
    pair.question, pair.reviewers.join(", "), pair.clips, `${Math.round(100 * pair.same)}%`,
    pair.kappa === null ? "—" : pair.kappa.toFixed(3),
  ], "td"));
  $("pairs").replaceChildren(row(["question", "reviewers", "clips", "same", "kappa"], "th"),
    ...(rows.length ? rows : [row(["no two reviewers have answered for the same clip yet"], "td")]));
  $("agreement").showModal();
}

function askName() {
  $("reviewer").value = state.reviewer;
  $("ask-name").showModal();
}

async function begin(reviewer) {
  state.reviewer = reviewer;
  localStorage.setItem("reviewer", reviewer);
  $("who").textContent = reviewer;
  try {
    const data = await ask(`clips?reviewer=${encodeURIComponent(reviewer)}`);
    document.title = $("name").textContent = data.name;
    state.clips = data.clips;
    state.dataset = data.id;
    state.task = kept("task", "pose");
    // what waits here counts already
    for (const one of kept(WAITING, [])) {
      const clip = state.clips.find((other) => other.key === one.key);
      if (clip && one.reviewer === reviewer) clip[one.question] = one.value;
    }
    const last = state.clips.findIndex((clip) => clip.key === kept("last", ""));
    await go(Math.max(0, last));
    send();
  } catch (error) {
    trouble(error);
  }
}

// ---------------------------------------------------------------- keys

const PRESSED = {
  1: () => answer(TASKS[state.task].values[0][0]), 2: () => answer(TASKS[state.task].values[1][0]),
  ArrowRight: () => go(state.at + 1), j: () => go(state.at + 1),
  ArrowLeft: () => go(state.at - 1), k: () => go(state.at - 1),
  n: nextOpen, e: () => $("caption").focus(), g: showAgreement, "?": () => $("help").showModal(),
  t: () => choose(state.task === "pose" ? "sample" : "pose"),
  " ": () => ($("video").paused ? $("video").play() : $("video").pause()),
  ".": () => seek($("video").currentTime + FRAME_S), ",": () => seek(Math.max(0, $("video").currentTime - FRAME_S)),
};

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || !state.clips.length) return;
  if (event.target === $("caption")) {
    if (event.key === "Escape") dropCaption();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); saveCaption(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target.tagName === "BUTTON") event.target.blur();
  const act = PRESSED[event.key];
  if (act) { event.preventDefault(); act(); }
});

$("caption").addEventListener("input", () => {
  keep(draft(state.clip.key), $("caption").value);
  captionNote([]);
});
$("video").addEventListener("error", () => {
  $("no-video").hidden = false;
  $("no-video").textContent = "this browser cannot play the clip";
});
$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("reviewer").value.trim();
  const fits = /^[\p{L}\p{N}](?:[\p{L}\p{N}_ .@-]{0,38}[\p{L}\p{N}_.])?$/u.test(name);
  $("name-note").hidden = fits;
  if (fits) { $("ask-name").close(); begin(name); }
});
for (const button of document.querySelectorAll("dialog .close")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
// without a name there is nothing to go back to
$("ask-name").addEventListener("cancel", (event) => { if (!state.reviewer) event.preventDefault(); });
$("keys").replaceChildren(...KEYS.map(([key, words]) => {
  const row = document.createElement("tr"), left = document.createElement("td"), right = document.createElement("td");
  const cap = document.createElement("kbd");
  cap.textContent = key;
  left.append(cap);
  right.textContent = words;
  row.append(left, right);
  return row;
}));
for (const [id, act] of Object.entries({
  previous: () => go(state.at - 1), next: () => go(state.at + 1), open: nextOpen, who: askName,
  "show-agreement": showAgreement, "show-help": () => $("help").showModal(),
  "task-pose": () => choose("pose"), "task-sample": () => choose("sample"),
  "save-caption": saveCaption, "drop-caption": dropCaption,
})) $(id).addEventListener("click", act);

function follow() {
  $("curves").firstChild?.follow($("video").currentTime);
  requestAnimationFrame(follow);
}
follow();
const known = localStorage.getItem("reviewer");
if (known) begin(known); else askName();
