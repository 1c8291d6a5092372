// One clock for all videos of a case. A video that is shorter than the longest rests on its last frame.
class Deck {
  constructor(tiles, show) {
    this.tiles = tiles; // {video, samples, mark(sample, share)} of those that can be played
    this.show = show; // called with (seconds, duration, playing)
    this.time = 0;
    this.rate = 1;
    this.playing = false;
    this.frame = 0;
    for (const tile of tiles) {
      tile.video.addEventListener("loadeddata", () => this.mark(tile));
      tile.video.addEventListener("seeked", () => this.mark(tile));
      tile.video.addEventListener("durationchange", () => this.show(this.time, this.duration, this.playing));
    }
  }

  get duration() {
    const ends = this.tiles.map(({ video, samples }) =>
      Number.isFinite(video.duration) ? video.duration : samples.at(-1)?.time ?? 0);
    return Math.max(0, ...ends);
  }

  play() {
    if (this.playing || !this.tiles.length) return;
    Deck.current?.pause();
    Deck.current = this;
    this.playing = true;
    if (this.time >= this.duration - 0.01) this.time = 0;
    this.place(this.time);
    this.begun = performance.now() - (1000 * this.time) / this.rate;
    for (const { video } of this.tiles) {
      video.playbackRate = this.rate;
      video.play().catch(() => {}); // a file that cannot be played says so in its tile
    }
    this.frame = requestAnimationFrame(() => this.tick());
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    cancelAnimationFrame(this.frame);
    for (const { video } of this.tiles) video.pause();
    this.place(this.time);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  seek(time) {
    this.pause();
    this.place(Math.min(Math.max(time, 0), this.duration));
  }

  // to the next or the previous measured frame
  step(way) {
    const times = this.tiles.flatMap(({ samples }) => samples.map((sample) => sample.time)).sort((a, b) => a - b);
    const next = way > 0 ? times.find((t) => t > this.time + 0.005) : times.findLast((t) => t < this.time - 0.005);
    if (next !== undefined) this.seek(next);
  }

  speed(rate) {
    const playing = this.playing;
    this.pause();
    this.rate = rate;
    if (playing) this.play();
  }

  place(time) {
    this.time = time;
    for (const tile of this.tiles) {
      const end = Number.isFinite(tile.video.duration) ? tile.video.duration : time;
      tile.video.currentTime = Math.max(0, Math.min(time, end - 0.001));
      this.mark(tile);
    }
    this.show(this.time, this.duration, this.playing);
  }

  tick() {
    if (!this.playing) return;
    this.time = ((performance.now() - this.begun) / 1000) * this.rate;
    if (this.time >= this.duration) {
      this.time = 0;
      this.begun = performance.now();
      for (const { video } of this.tiles) {
        video.currentTime = 0;
        video.play().catch(() => {});
      }
    }
    for (const tile of this.tiles) {
      const { video } = tile;
      const inside = this.time < video.duration - 0.05;
      if (inside && Math.abs(video.currentTime - this.time) > 0.12 && !video.seeking) video.currentTime = this.time;
      this.mark(tile);
    }
    this.show(this.time, this.duration, true);
    this.frame = requestAnimationFrame(() => this.tick());
  }

  mark(tile) {
    const { samples } = tile;
    if (!samples.length) return;
    let nearest = 0;
    samples.forEach((sample, i) => {
      if (Math.abs(sample.time - this.time) < Math.abs(samples[nearest].time - this.time)) nearest = i;
    });
    tile.mark(nearest);
  }

  close() {
    this.pause();
    if (Deck.current === this) Deck.current = null;
    for (const { video } of this.tiles) {
      video.removeAttribute("src");
      video.load();
    }
  }
}
Deck.current = null;
