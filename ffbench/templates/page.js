"use strict";
(() => {
  const place = document.getElementById("cases");
  const order = document.getElementById("order");
  const boxes = [...document.querySelectorAll("#methods input")];
  const cases = [...place.children];

  function extreme(one, name, pick, none) {
    const shown = [...one.querySelectorAll(".video:not(.hidden)")];
    return pick(...shown.map((video) => (video.dataset[name] === "" ? none : Number(video.dataset[name]))));
  }

  function keys() {
    return {
      suite: () => 0,
      // a video without a value, failed or faceless, is the worst there is
      worst: (one) => extreme(one, "worst", Math.min, -2),
      best: (one) => -extreme(one, "worst", Math.max, -2),
      turn: (one) => -extreme(one, "turn", Math.max, -1),
    };
  }

  function arrange() {
    const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    for (const video of place.querySelectorAll(".video")) {
      video.classList.toggle("hidden", !wanted.has(video.dataset.label));
    }
    const key = keys()[order.value];
    const sorted = cases.map((one, i) => [key(one), i, one]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    place.append(...sorted.map((item) => item[2]));
  }

  // index.html#worst opens in that order
  const asked = location.hash.slice(1);
  if (asked in keys()) order.value = asked;
  order.addEventListener("change", arrange);
  for (const box of boxes) box.addEventListener("change", arrange);
  arrange();
})();
