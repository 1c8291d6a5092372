// Where a number comes from: its recipe and its provenance, from the records of the video.
function flat(facts, prefix = "") {
  return Object.entries(facts ?? {}).flatMap(([name, value]) =>
    value !== null && typeof value === "object" ? flat(value, `${prefix}${name}.`)
      : value === "" || value === null ? [] : [[prefix + name, String(value)]]);
}

function rows(pairs) {
  return make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function explain(one, video, place) {
  const metric = data.metrics[place];
  const method = data.methods[video.method];
  const { settings, provenance } = video.facts();
  const networks = metric.needs.filter((slot) => method.networks[slot]).map((slot) => `${slot}: ${method.networks[slot]}`);
  const reason = video.reason(place);
  const handle = `${data.suite}/${method.label.split(" ")[0]}/${one.name}`;
  const dialog = control("about");
  dialog.querySelector("div").replaceChildren(
    make("h2", {}, `${metric.title} ${shown(video.values[place], metric)}`),
    make("p", {}, reason || metric.summary),
    make("div", { className: "values" }, ...data.metrics.map((other, i) => make("button", {
      type: "button", className: i === place ? "value here" : "value", title: video.reason(i) || other.summary,
      onclick: () => explain(one, video, i),
    }, other.title, make("b", {}, shown(video.values[i], other))))),
    make("h3", {}, "Recipe"),
    rows([
      ["metric", `${metric.id} version ${metric.version}: ${metric.summary}`],
      ["protocol", data.protocol],
      ["frames", `${video.scored[place]} of ${video.frames} sampled frames`],
      ["networks", networks.join("\n") || "none"],
      ["track", video.track],
      ...flat(JSON.parse(text(method.scored) || "{}"), "scored with ").slice(0, 24),
    ]),
    make("h3", {}, "Video"),
    rows([
      ["case", `${one.name}: ${one.person}, ${one.promptId}`],
      ["method", `${method.label}, revision ${video.revision}${method.summary ? `: ${method.summary}` : ""}`],
      ["key", `${video.key}, seed ${video.seed}`],
      ["made", [video.utc, video.seconds === null ? "" : `${video.seconds} s`].filter(Boolean).join(", ")],
      ...flat(settings, "").map(([name, value]) => [`set ${name}`, value]),
      ...flat(provenance, ""),
    ]),
    make("p", { className: "gone" }, "ffbench show ", make("code", {}, handle)));
  if (!dialog.open) dialog.showModal();
}
