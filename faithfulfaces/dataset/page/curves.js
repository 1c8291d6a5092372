"use strict";
// Pitch, yaw and roll over time as an SVG that follows the film.

const CURVES = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 640, HEIGHT = 210, LEFT = 38, RIGHT = 132, TOP = 10, BOTTOM = 22;
  const NAMES = ["pitch", "yaw", "roll"];

  function part(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function degrees(angle) {
    return `${Math.round(angle) || 0}°`.replace("-", "−");
  }

  // runs of frames with a face; a gap stays a gap
  function runs(seconds, values) {
    const found = [[]];
    values.forEach((value, i) => {
      if (value === null) found.push([]);
      else found[found.length - 1].push([seconds[i], value]);
    });
    return found.filter((run) => run.length);
  }

  function draw(clip, seek) {
    const values = clip.angles.flat().filter((value) => value !== null);
    const low = Math.min(-30, ...values), high = Math.max(30, ...values);
    const length = Math.max(0.1, ...clip.seconds);
    const x = (second) => LEFT + (second / length) * (WIDTH - LEFT - RIGHT);
    const y = (degree) => TOP + ((high - degree) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const svg = part("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "pitch, yaw and roll over time" });
    for (let level = Math.ceil(low / 30) * 30; level <= high; level += 30) {
      svg.append(part("line", { class: level ? "rule" : "rule zero", x1: LEFT, x2: WIDTH - RIGHT, y1: y(level), y2: y(level) }));
      svg.append(part("text", { class: "tick end", x: LEFT - 6, y: y(level) + 4 }, degrees(level)));
    }
    const step = length > 6 ? 2 : 1;
    for (let second = 0; second <= length; second += step) {
      svg.append(part("text", { class: "tick mid", x: x(second), y: HEIGHT - 6 }, `${second} s`));
    }
    const labels = [];
    NAMES.forEach((name, i) => {
      const group = part("g", { class: `curve a${i}` });
      for (const run of runs(clip.seconds, clip.angles[i])) {
        if (run.length === 1) group.append(part("circle", { cx: x(run[0][0]), cy: y(run[0][1]), r: 2.5 }));
        else group.append(part("polyline", { points: run.map(([s, v]) => `${x(s).toFixed(1)},${y(v).toFixed(1)}`).join(" ") }));
      }
      svg.append(group);
      const [least, greatest] = clip.ranges[i];
      if (least === null) return;
      const last = clip.angles[i].findLast((value) => value !== null);
      labels.push({ i, at: y(last), text: `${name} ${degrees(least)} … ${degrees(greatest)}` });
    });
    // labels stand at the ends of their curves, but never on each other
    labels.sort((a, b) => a.at - b.at);
    labels.forEach((label, n) => { label.at = Math.max(label.at, n ? labels[n - 1].at + 16 : TOP + 8); });
    for (let n = labels.length - 1, most = HEIGHT - BOTTOM; n >= 0; n--) {
      labels[n].at = Math.min(labels[n].at, most);
      most = labels[n].at - 16;
    }
    for (const label of labels) {
      svg.append(part("text", { class: `name a${label.i}`, x: WIDTH - RIGHT + 8, y: label.at + 4 }, label.text));
    }
    const cursor = part("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, x1: LEFT, x2: LEFT });
    svg.append(cursor);
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * length;
      seek(Math.min(length, Math.max(0, at)));
    });
    svg.follow = (second) => {
      const at = x(Math.min(length, second));
      cursor.setAttribute("x1", at);
      cursor.setAttribute("x2", at);
    };
    return svg;
  }

  return { draw, degrees };
})();
