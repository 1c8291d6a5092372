// A case: its reference and a tile a method. The shell is there from the beginning; what it holds comes and goes.
const CROP = 112;
const PLAYABLE = /\.(mp4|m4v|webm|mov)$/i;

function curve(samples) {
  const [width, height, floor] = [200, 56, 40]; // cosines above the floor, yaw below it
  const end = samples.at(-1).time || 1;
  const x = (sample) => 4 + ((width - 8) * sample.time) / end;
  const level = (cosine) => floor - (floor - 4) * Math.min(Math.max(cosine, 0), 1);
  const turn = (yaw) => (floor + height) / 2 - (Math.max(-90, Math.min(90, yaw)) / 90) * ((height - floor) / 2 - 1);
  const pieces = (pick, place) => {
    const found = [[]];
    for (const sample of samples) {
      if (Number.isNaN(pick(sample))) found.push([]);
      else found.at(-1).push(`${x(sample).toFixed(1)},${place(pick(sample)).toFixed(1)}`);
    }
    return found.filter((piece) => piece.length);
  };
  const line = (kind, pick, place) => pieces(pick, place).map((piece) =>
    draw("polyline", { class: kind, points: (piece.length > 1 ? piece : [piece[0], piece[0]]).join(" ") }));
  const needle = draw("line", { class: "needle", x1: 4, x2: 4, y1: 0, y2: height });
  const lost = samples.filter((sample) => Number.isNaN(sample.crop[0]))
    .map((sample) => draw("line", { class: "lost", x1: x(sample), x2: x(sample), y1: 2, y2: floor }));
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "curve", preserveAspectRatio: "none", role: "img" },
    ...[0, 0.5, 1].map((cosine) => draw("line", { class: "rule", x1: 0, x2: width, y1: level(cosine), y2: level(cosine) })),
    draw("line", { class: "rule zero", x1: 0, x2: width, y1: turn(0), y2: turn(0) }),
    ...lost,
    ...line("yaw", (sample) => sample.yaw, turn),
    ...data.curves.flatMap((_, i) => line(`k${i}`, (sample) => sample.cosines[i], level)),
    needle);
  svg.setAttribute("aria-label", `similarity and yaw over ${end.toFixed(1)} seconds`);
  const time = (event) => {
    const box = svg.getBoundingClientRect();
    return Math.max(0, Math.min(1, ((event.clientX - box.left) / box.width - 4 / width) / (1 - 8 / width))) * end;
  };
  return { svg, time, move: (sample) => { needle.setAttribute("x1", x(sample)); needle.setAttribute("x2", x(sample)); } };
}

function told(sample) {
  const face = Number.isNaN(sample.crop[0]);
  const turn = Number.isNaN(sample.yaw) ? "" : `yaw ${sample.yaw < 0 ? "−" : "+"}${Math.abs(sample.yaw).toFixed(0)}°`;
  const cosines = sample.cosines
    .map((value, i) => (Number.isNaN(value) ? "" : `${data.curves[i].replace("FaceSim-", "")} ${value.toFixed(2).replace("0.", ".")}`));
  return [`${sample.time.toFixed(2)} s`, face ? "no face" : turn, cosines.filter(Boolean).join(" ")].filter(Boolean).join(" · ");
}

// the aligned face of a sample, or the outline of where it lies, drawn from the video as it stands
function align(canvas, video, size, crop) {
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, CROP, CROP);
  canvas.classList.toggle("none", Number.isNaN(crop[0]));
  if (Number.isNaN(crop[0]) || video.readyState < 2) return;
  const [x, y, side, degrees] = crop;
  context.translate(CROP / 2, CROP / 2);
  context.rotate((degrees * Math.PI) / 180);
  context.scale(CROP / side, CROP / side);
  context.translate(-x, -y);
  context.drawImage(video, 0, 0, size[0], size[1]);
}

function outline(canvas, size, crop) {
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (Number.isNaN(crop[0])) return;
  const [x, y, side, degrees] = crop;
  const scale = canvas.width / size[0];
  context.scale(scale, scale);
  context.translate(x, y);
  context.rotate((-degrees * Math.PI) / 180);
  context.lineWidth = 2 / scale;
  context.strokeStyle = "#ffb000";
  context.strokeRect(-side / 2, -side / 2, side, side);
}

function values(one, video) {
  const list = make("div", { className: "values" });
  data.metrics.forEach((metric, i) => {
    if (!MAIN.has(i)) return;
    list.append(make("button", {
      type: "button", className: "value", title: video.reason(i) || metric.summary,
      onclick: () => explain(one, video, i),
    }, metric.title.replace("FaceSim-", ""), make("b", {}, shown(video.values[i], metric))));
  });
  list.append(make("button", { type: "button", className: "value", title: "every number of this video", onclick: () => explain(one, video, data.primary) }, "…"));
  return list;
}
const MAIN = new Set(data.metrics.map((metric, i) => i)
  .filter((i) => ["facesim_cur", "facesim_arc", "clip_score", "pose_range", "face_rate", "face_feature_distance"].includes(data.metrics[i].id)));
if (!MAIN.size) data.metrics.forEach((_, i) => MAIN.add(i));

function tile(one, video, deck) {
  const method = data.methods[video.method];
  const metric = Math.max(0, data.metrics.findIndex((item) => item.id === control("metric").value));
  const box = make("section", { className: `tile m${video.method % 8}`, "data-label": method.label });
  box.append(make("h4", {}, make("span", { className: "name", title: method.summary }, method.label),
    method.control ? make("span", { className: "badge" }, "control") : "",
    make("span", { className: "score", title: data.metrics[metric]?.title ?? "" },
      shown(video.values[metric] ?? NaN, data.metrics[metric] ?? { decimals: 3, unit: "" }))));
  if (video.failed) {
    box.append(make("p", { className: "failed" }, `${video.status}: ${video.error}`));
    return box;
  }
  if (control("view").value === "strips") {
    box.append(video.strip
      ? make("img", { className: "strip", src: video.strip, alt: `frames of ${one.name} by ${method.label}`, loading: "lazy" })
      : make("p", { className: "gone" }, "no film strip: ffbench report --cases N makes more"));
  } else {
    box.append(media(video, deck));
  }
  if (video.samples.length) {
    const line = curve(video.samples);
    const caption = make("p", { className: "now" }, told(video.samples[0]));
    line.svg.addEventListener("pointermove", (event) => deck.aim?.(line.time(event), event.buttons === 1));
    line.svg.addEventListener("pointerdown", (event) => deck.aim?.(line.time(event), true));
    box.append(line.svg, caption);
    box.mark = (i) => { line.move(video.samples[i]); caption.textContent = told(video.samples[i]); };
  }
  box.append(values(one, video));
  return box;
}

function media(video, deck) {
  const ratio = video.size.length ? video.size[0] / video.size[1] : 1;
  const place = make("div", { className: "media" });
  const frame = make("div", { className: "frame" });
  frame.style.flex = `${ratio} 1 0`;
  frame.style.aspectRatio = String(ratio);
  place.append(frame);
  if (!PLAYABLE.test(video.href)) {
    frame.append(make("img", { src: video.href, alt: "", loading: "lazy" }));
    return place;
  }
  const player = make("video", { src: video.href, muted: true, playsInline: true, preload: "auto" });
  player.addEventListener("error", () => {
    if (player.hasAttribute("src")) frame.replaceChildren(make("a", { href: video.href }, "this browser cannot play the file"));
  });
  frame.append(player);
  const samples = video.samples;
  const tile = { video: player, samples, mark: () => {} };
  if (samples.length && video.size.length) {
    const crop = make("canvas", { className: "crop", width: CROP, height: CROP, title: "the aligned face" });
    const over = make("canvas", { className: "outline", width: 320, height: Math.round(320 / ratio) });
    frame.append(over);
    place.append(crop);
    tile.mark = (i) => {
      align(crop, player, video.size, samples[i].crop);
      if (document.body.classList.contains("outlined")) outline(over, video.size, samples[i].crop);
      place.parentElement?.mark?.(i);
    };
  }
  player.addEventListener("click", () => deck.toggle?.());
  deck.tiles.push(tile);
  return place;
}

function transport(deck) {
  const play = make("button", { type: "button", className: "play", title: "play or pause (space)", "aria-label": "play" }, "▶");
  const slider = make("input", { type: "range", min: 0, max: 1, step: 0.001, value: 0, "aria-label": "time" });
  const clock = make("output", {}, "0.00 s");
  const speed = make("select", { title: "speed", "aria-label": "speed" },
    ...[0.25, 0.5, 1, 2].map((rate) => make("option", { value: String(rate), selected: rate === 1 }, `${rate}×`)));
  play.addEventListener("click", () => deck.toggle());
  slider.addEventListener("input", () => deck.seek(Number(slider.value)));
  speed.addEventListener("change", () => deck.speed(Number(speed.value)));
  const step = (way, sign, name) => make("button", { type: "button", title: name, onclick: () => deck.step(way) }, sign);
  const bar = make("div", { className: "transport" }, play, step(-1, "‹", "previous measured frame (←)"),
    step(1, "›", "next measured frame (→)"), slider, clock, speed);
  const show = (time, duration, playing) => {
    play.textContent = playing ? "❚❚" : "▶";
    slider.max = duration || 1;
    slider.value = time;
    clock.textContent = `${time.toFixed(2)} / ${duration.toFixed(2)} s`;
  };
  return { bar, show };
}

function fill(shell) {
  if (shell.deck) return;
  const one = shell.one;
  const seat = { tiles: [] };
  // whoever is worked with is the case that the address and the keys mean
  const act = (name) => (...given) => {
    if (order[focused] !== shell) focusCase(shell);
    shell.deck[name](...given);
  };
  const { bar, show } = transport({ toggle: act("toggle"), seek: act("seek"), step: act("step"), speed: act("speed") });
  seat.toggle = act("toggle");
  seat.aim = (time, pressed) => { if (pressed) act("seek")(time); };
  const tiles = one.videos.filter((video) => video && !hidden.has(data.methods[video.method].label))
    .map((video) => tile(one, video, seat));
  const photo = (src, alt) => (src ? make("img", { className: "reference", src, alt, loading: "lazy" }) : "");
  const refs = make("div", { className: "refs" }, photo(one.photo, `reference of ${one.person}`), photo(one.face, "the face measured in it"));
  if (!one.photo) refs.append(make("p", { className: "gone" }, "the reference photograph is gone"));
  const body = make("div", { className: "body" }, refs, make("div", { className: "tiles" }, ...tiles));
  shell.deck = new Deck(seat.tiles, (time, duration, playing) => {
    show(time, duration, playing);
    if (!playing) remember(shell, time);
  });
  if (seat.tiles.length) body.append(bar);
  shell.style.minHeight = "";
  shell.append(body);
}

function empty(shell) {
  if (!shell.deck) return;
  shell.style.minHeight = `${shell.offsetHeight}px`; // what stands below must not jump
  shell.deck.close();
  shell.deck = null;
  shell.querySelector(".body").remove();
}

function shellOf(one) {
  const link = make("a", { className: "link", href: "#case=" + encodeURIComponent(one.name), title: "link to this case" }, one.name);
  link.addEventListener("click", (event) => {
    event.preventDefault();
    focusCase(shell);
    navigator.clipboard?.writeText(location.href).catch(() => {});
  });
  const shell = make("article", { className: "case", tabIndex: -1, id: `case-${one.place}` },
    make("header", {}, make("h3", {}, one.person), link,
      ...one.tags.map((tag) => make("span", { className: "tag" }, tag))));
  if (one.prompt) shell.append(make("p", { className: "prompt", title: "click for the whole prompt", onclick: (event) => event.target.classList.toggle("whole") }, one.prompt));
  shell.one = one;
  shell.deck = null;
  return shell;
}
