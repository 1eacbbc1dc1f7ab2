// Player of several files of one length with one play head: a change of track keeps the position.

const STEP = 5; // seconds that an arrow key moves

/**
 * Returns {stage, bar, sounds, listen, seek, toggle, close, position} for
 * tracks: [{label, small, url, picture, spoken}], the mixture first; `url` is null where the file does not exist.
 */
function makePlayer(tracks, seconds, { seams = [], worst = null, top = null }) {
  const stage = make("div", { className: tracks.length > 4 ? "stage many" : "stage" });
  const problem = make("span", { className: "problem", hidden: true });
  const time = make("span", { className: "time" });
  const play = make("button", { type: "button", className: "play" }, "▶ Play");
  const back = make("button", { type: "button", title: "5 seconds back" }, "−5 s");
  const on = make("button", { type: "button", title: "5 seconds forward" }, "+5 s");
  const bar = make("div", { className: "player" }, play, back, on, time);
  let length = seconds || 0, place = 0, current = Math.max(0, tracks.findIndex((track) => track.url)), frame = 0;

  for (const [number, track] of tracks.entries()) {
    track.audio = make("audio", { preload: "none" });
    if (track.url) track.audio.src = track.url;
    track.name = make("button", { type: "button", className: "name", disabled: !track.url }, make("kbd", {}, String(number + 1)), track.label, make("small", {}, track.small || ""));
    track.head = make("div", { className: "head" });
    track.lane = make("div", { className: track.picture ? "lane" : "lane bare" });
    if (track.picture) track.lane.append(make("img", { loading: "lazy", decoding: "async", alt: `Spectrogram of ${track.label}`, src: track.picture }));
    if (track.picture && top) track.lane.append(make("span", { className: "top" }, `${top} kHz`));
    if (!track.url) track.lane.append(make("span", { className: "hint" }, track.gone));
    if (worst) track.lane.append(placed("div", "worst", worst));
    for (const seam of seams) track.lane.append(placed("div", "seam", [seam, seam]));
    track.lane.append(track.head);
    const right = make("div", {}, track.lane);
    if (track.spoken) right.append(make("div", { className: "spoken", title: "speech" }, ...track.spoken.map((span) => placed("i", "", span))));
    track.row = make("div", { className: "track" }, track.name, right);
    track.button = make("button", { type: "button", className: "listen", disabled: !track.url }, `${number + 1} ${track.short}`);
    for (const button of [track.name, track.button]) button.addEventListener("click", () => listen(number));
    stage.append(track.row);
    bar.append(track.button);

    track.audio.addEventListener("loadedmetadata", () => {
      if (Number.isFinite(track.audio.duration) && track.audio.duration > length) setLength(track.audio.duration);
      if (number === current && Math.abs(track.audio.currentTime - place) > 0.02) track.audio.currentTime = place;
    });
    for (const event of ["play", "pause", "ended", "seeked"]) track.audio.addEventListener(event, () => number === current && show());
    track.audio.addEventListener("error", () => number === current && complain());
    scrub(track.lane);
  }
  bar.append(make("span", { className: "keys" }, `keys: 1 to ${tracks.length} choose a track · space plays · ← → move`), problem);
  const scale = make("div", { className: "scale" });
  stage.append(make("div", { className: "track scales" }, make("span"), scale));
  setLength(length);

  /** Returns an element that spans the seconds from and to. */
  function placed(tag, style, [from, to]) {
    const element = make(tag, { className: style });
    element.style.left = (100 * from) / (seconds || 1) + "%";
    if (to > from) element.style.width = (100 * (Math.min(to, seconds) - from)) / (seconds || 1) + "%";
    return element;
  }

  function setLength(value) {
    length = value;
    const { values, digits } = ticks(0, length || 1, narrow() ? 4 : 10);
    const inside = values.filter((at) => at <= length * 1.0001);
    scale.replaceChildren(...inside.map((at) => {
      const tick = make("span", { className: at > length * 0.97 ? "last" : "" }, length < 60 ? at.toFixed(digits) + " s" : clock(at, true));
      tick.style.left = (100 * at) / (length || 1) + "%";
      return tick;
    }));
  }

  /** Lets a finger or a mouse on a lane move the play head. */
  function scrub(lane) {
    const move = (event) => {
      const box = lane.getBoundingClientRect();
      seek(((event.clientX - box.left) / box.width) * length);
    };
    lane.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      lane.setPointerCapture(event.pointerId);
      move(event);
    });
    lane.addEventListener("pointermove", (event) => lane.hasPointerCapture(event.pointerId) && move(event));
  }

  const sound = () => tracks[current].audio;
  const playing = () => !sound().paused && !sound().ended;

  function position() {
    if (sound().readyState > 0 && !sound().seeking) place = sound().currentTime;
    return place;
  }

  function seek(to) {
    place = Math.max(0, Math.min(to, length || to));
    if (tracks[current].url) sound().currentTime = place;
    show();
  }

  function listen(number) {
    if (number === current || !tracks[number] || !tracks[number].url) return;
    const went = playing();
    position();
    sound().pause();
    current = number;
    sound().currentTime = place;
    if (went) start();
    show();
  }

  function start() {
    problem.hidden = true;
    if (length && place >= length - 0.01) seek(0);
    for (const track of tracks) if (track.url) track.audio.preload = "auto"; // from now on a change of track is instant
    sound().play().catch((error) => error.name === "AbortError" || complain());
  }

  function toggle() {
    if (!tracks[current].url) return;
    if (playing()) {
      position();
      sound().pause();
    } else start();
    show();
  }

  function complain() {
    if (!sound().error && sound().readyState) return;
    problem.textContent = `This browser cannot play ${tracks[current].label}: open the file with another program.`;
    problem.hidden = false;
    show();
  }

  function show() {
    cancelAnimationFrame(frame);
    const at = position();
    for (const [number, track] of tracks.entries()) {
      const pressed = number === current && Boolean(track.url);
      track.head.style.left = (100 * at) / (length || 1) + "%";
      track.row.classList.toggle("on", pressed);
      track.name.setAttribute("aria-pressed", pressed);
      track.button.setAttribute("aria-pressed", pressed);
    }
    play.textContent = playing() ? "■ Stop" : "▶ Play";
    time.textContent = `${stamp(at)} / ${stamp(length)}`;
    if (playing()) frame = requestAnimationFrame(show);
  }

  const stamp = (value) => `${Math.floor(value / 60)}:${(value % 60).toFixed(1).padStart(4, "0")}`;

  function close() {
    cancelAnimationFrame(frame);
    for (const track of tracks) {
      track.audio.pause();
      track.audio.removeAttribute("src");
      track.audio.load();
    }
  }

  play.addEventListener("click", toggle);
  back.addEventListener("click", () => seek(position() - STEP));
  on.addEventListener("click", () => seek(position() + STEP));
  show();
  const sounds = make("div", { hidden: true }, ...tracks.map((track) => track.audio));
  return { stage, bar, sounds, listen, seek, toggle, close, position };
}
