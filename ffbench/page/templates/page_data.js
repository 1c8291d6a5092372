// The page's data, made by ffbench/gallery_data.py: everything is text or number, and nothing of it becomes HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const text = (place) => (place < 0 ? "" : data.texts[place]);
const STATUS = ["ok", "failed", "refused"];

function unpackSamples(packed, times) {
  const width = data.units.length;
  const bytes = Uint8Array.from(atob(packed), (char) => char.charCodeAt(0));
  const table = new DataView(bytes.buffer);
  const read = (row, column) => {
    const step = table.getInt16(2 * (row * width + column), true);
    return step === -32768 ? NaN : step / data.units[column];
  };
  const first = width - 5; // cosines stand before yaw and the crop's centre, side and turn
  return times.map((time, row) => ({
    time,
    cosines: data.curves.map((_, i) => read(row, i)),
    yaw: read(row, first),
    crop: [1, 2, 3, 4].map((i) => read(row, first + i)),
  }));
}

function unpackVideo(method, one) {
  const [status, error, href, key, track, seed, seconds, utc, revision, facts, size, values, reasons, scored, frames,
    strip, when, packed] = one;
  let samples = null;
  return {
    method, key, track, seed, seconds, size, frames, strip, scored, failed: status > 0, status: STATUS[status],
    error: text(error), utc: text(utc), revision: text(revision),
    facts: () => JSON.parse(text(facts)),
    href: status > 0 ? "" : href || data.methods[method].videos + key + ".mp4",
    values: values.map((value) => (value === null ? NaN : value)),
    reason: (metric) => (reasons ? text(reasons[metric]) : ""),
    get samples() {
      samples ??= when < 0 ? [] : unpackSamples(packed, data.times[when]);
      return samples;
    },
  };
}

const cases = data.cases.map((one, i) => ({
  ...one,
  place: i,
  name: `${one.id}-s${one.take}`,
  hay: [one.id, one.person, one.promptId, one.prompt, ...one.tags].join("\n").toLowerCase(),
  videos: data.videos.map((row, method) => (row[i] ? unpackVideo(method, row[i]) : null)),
}));

function shown(value, metric) {
  if (Number.isNaN(value)) return "—";
  const fixed = value.toFixed(metric.decimals);
  return (Number(fixed) === 0 ? fixed.replace("-", "") : fixed) + metric.unit;
}

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
