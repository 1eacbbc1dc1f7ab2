// Page of a run: an overview, and a view of each file with pictures and sound.

const STATUS = ["", "doubtful", "failed"];
const MEASURE = DATA.measure === "true" ? "SI-SNRi" : "predicted SI-SNRi";
const files = DATA.rows.map((values, index) => {
  const file = Object.fromEntries(DATA.fields.map((field, k) => [field, values[k]]));
  file.index = index;
  file.label = visible(file.name) + (file.more.channel ? ` · channel ${file.more.channel}` : "");
  file.rtf = file.status < 2 && file.seconds ? file.elapsed / file.seconds : null;
  file.worse = DATA.against && file.more.other && file.sisnri !== null && file.more.other.sisnri !== null ? file.sisnri - file.more.other.sisnri : null;
  return file;
});

function overview() {
  const done = files.filter((file) => file.status < 2);
  const seconds = done.reduce((sum, file) => sum + file.seconds, 0), spent = done.reduce((sum, file) => sum + file.elapsed, 0);
  const failed = files.length - done.length, doubtful = files.filter((file) => file.status === 1).length;
  const facts = $("facts");
  addFact(facts, "files", files.length.toLocaleString("en"));
  addFact(facts, "audio", seconds >= 3600 ? (seconds / 3600).toFixed(1) + " h" : seconds >= 60 ? (seconds / 60).toFixed(1) + " min" : clock(seconds));
  addFact(facts, "failed", failed.toLocaleString("en"), failed ? "bad" : "");
  addFact(facts, "doubtful", doubtful.toLocaleString("en"), doubtful ? "warn" : "");
  addFact(facts, narrow() ? "RTF" : "real-time factor", seconds ? (spent / seconds).toFixed(3) : "–");
  const names = [...new Set(DATA.settings.map((one) => one.weights).filter(Boolean))];
  if (names.length) addFact(facts, "weights", visible(names.join(", ")));
  if (DATA.against) addFact(facts, "against", visible(DATA.against.title));

  const used = [...new Set(files.map((file) => file.settings))];
  const [summary, body] = $("settings").children;
  summary.textContent = used.length === 1 ? "Settings" : `${used.length} settings`;
  for (const number of used) {
    const list = make("dl");
    for (const [name, value] of Object.entries(DATA.settings[number])) list.append(make("dt", {}, name), make("dd", {}, visible(value)));
    const count = files.filter((file) => file.settings === number).length;
    body.append(make("p", { className: "note" }, `${count} files`), list);
  }
  $("sentence").textContent = DATA.measure
    ? "Worst first. Click a file to see and hear it."
    : "Failed and doubtful files first, as the record has no predicted SI-SNRi and --scores was not given. Click a file to hear it.";
  histogram($("charts"), `${MEASURE} in dB`, files.map((file) => file.sisnri), "dB", 1);
  histogram($("charts"), "Real-time factor", done.map((file) => file.rtf), "", 3);
}

function fileTable() {
  const band = (file) => (file.low !== null ? ` (${fixed(file.low, 0)} to ${fixed(file.high, 0)})` : "");
  const columns = [
    { key: "name", title: "file", width: "minmax(180px, 5fr)", value: (f) => f.label, text: (f) => f.label },
    { key: "sisnri", title: DATA.measure === "predicted" ? "predicted" : "SI-SNRi", number: true, width: DATA.measure === "predicted" ? "130px" : "80px", unit: " dB", value: (f) => f.sisnri, text: (f) => (f.sisnri === null ? "" : fixed(f.sisnri, 1) + band(f)) },
    { key: "against", title: "difference", width: "90px", number: true, unit: " dB against the other run", value: (f) => f.worse, text: (f) => (f.worse === null ? "" : signed(f.worse, 1)) },
    { key: "seconds", title: "length", width: "80px", number: true, down: true, value: (f) => f.seconds || null, text: (f) => (f.seconds ? clock(f.seconds) : "") },
    { key: "rtf", title: "RTF", width: "70px", number: true, down: true, unit: " RTF", value: (f) => f.rtf, text: (f) => fixed(f.rtf, 3) },
    { key: "repeats", title: "repeats", width: "70px", number: true, unit: " repeats", value: (f) => f.repeats, text: (f) => (f.repeats ? String(f.repeats) : "") },
    { key: "status", title: "status", width: "84px", down: true, value: (f) => f.status, text: (f) => STATUS[f.status], style: (f) => STATUS[f.status] },
    { key: "remarks", title: "remarks", width: "minmax(0, 5fr)", value: (f) => f.remarks.join("; "), text: (f) => visible(f.remarks.join("; ")), style: () => "faint" },
  ];
  const table = makeTable($("table"), columns, files, {
    haystack: (file) => file.label + " " + STATUS[file.status] + " " + visible(file.remarks.join(" ")),
    address: (file) => "#file=" + file.index,
  });
  $("search").addEventListener("input", (event) => {
    table.words = event.target.value;
    table.refresh();
  });
  const choices = [
    ["all", () => true],
    ["failed", (file) => file.status === 2],
    ["doubtful", (file) => file.status === 1],
    ["with pictures", (file) => Boolean(file.more.pictures)],
  ].map(([name, keep]) => [name, keep, files.filter(keep).length]).filter(([name, , count]) => count || name === "all");
  for (const [name, keep, count] of choices) {
    const button = make("button", { type: "button", "aria-pressed": name === "all" }, `${name} ${count.toLocaleString("en")}`);
    button.addEventListener("click", () => {
      for (const other of $("filters").children) other.setAttribute("aria-pressed", other === button);
      table.keep = keep;
      table.refresh();
    });
    $("filters").append(button);
  }
  return table;
}

/** Returns a file's mixture and voices, each voice followed by the most similar one of the other run, if any. */
function tracksOf(file) {
  const { more } = file, [number, ...drawn] = more.pictures || [];
  const picture = (track) => (drawn.includes(track) ? `${DATA.pictures}${number}-${track}.webp` : null);
  const here = (bits, bit) => Math.floor(bits / 2 ** bit) % 2 === 1;
  const root = DATA.roots[file.root];
  const mixture = {
    label: "Mixture", short: "Mixture", picture: picture(0), path: more.mixture || file.name,
    url: root !== null && here(file.here, 0) ? root + encoded(more.mixture || file.name) : null,
    gone: root === null ? "the record does not name IN: pass it with tisdiss report --in IN" : "the mixture no longer exists",
  };
  /** Returns a run's voices; channels of one file are played from their copies, or together if there are none. */
  const voicesOf = (base, run, first) => {
    const names = run.outputs, split = Boolean(run.voices) && drawn.includes(first);
    return (split ? Array(run.voices).fill(names[0]) : names).map((path, k) => {
      const href = here(run.here, split ? 1 : k + 1) ? base + encoded(path) : null, shot = picture(first + k);
      const url = split && href && shot ? shot.replace(/webp$/, "wav") : href;
      return { path, href, url, picture: shot, gone: "the file no longer exists", together: Boolean(run.voices) && !split };
    });
  };
  const named = (track, k, small, mark) => {
    const label = track.together ? "All voices" : `Voice ${k + 1}`;
    return { ...track, label, small, short: label + mark };
  };
  const other = more.other, mine = voicesOf(DATA.out, { ...file, voices: more.voices }, 1);
  const theirs = other ? voicesOf(DATA.against.out, other, 1 + (more.voices || mine.length)) : [];
  const order = more.order || theirs.map((_, k) => k);
  const repeats = (n) => (n === null ? "" : `${n} repeat${n === 1 ? "" : "s"}`);
  const tracks = [mixture];
  for (let k = 0; k < Math.max(mine.length, theirs.length); k++) {
    if (k < mine.length) {
      const track = named(mine[k], k, other ? repeats(file.repeats) : "", "");
      if (more.spoken && more.spoken[k]) track.spoken = more.spoken[k];
      tracks.push(track);
    }
    if (k < theirs.length) tracks.push(named(theirs[order[k]], k, `${visible(DATA.against.title)}, ${repeats(other.repeats)}`, "′"));
  }
  return tracks;
}

let player = null;

function openFile(file, table) {
  const { more } = file, view = $("file");
  const at = table.order.indexOf(file), neighbour = (step) => table.order[at + step];
  const go = (step, words) => neighbour(step) && at >= 0 ? make("a", { href: "#file=" + neighbour(step).index }, words) : null;
  const facts = make("dl", { className: "facts" });
  if (file.seconds) addFact(facts, "length", clock(file.seconds));
  if (file.sisnri !== null) addFact(facts, MEASURE, fixed(file.sisnri, 1) + " dB" + (file.low !== null ? `, ${fixed(file.low, 1)} to ${fixed(file.high, 1)}` : ""));
  if (more.other && more.other.sisnri !== null) addFact(facts, visible(DATA.against.title), fixed(more.other.sisnri, 1) + " dB");
  if (file.repeats) addFact(facts, "repeats", String(file.repeats));
  if (file.rtf !== null) addFact(facts, narrow() ? "RTF" : "real-time factor", fixed(file.rtf, 3));
  if (more.talkers !== undefined) addFact(facts, "talkers", String(more.talkers));
  if (more.speech !== undefined) addFact(facts, "speech", clock(more.speech));
  if (more.overlap !== undefined) addFact(facts, "overlap", clock(more.overlap));
  if (file.status) addFact(facts, "status", STATUS[file.status], file.status === 2 ? "bad" : "warn");

  const tracks = tracksOf(file), seams = more.seams || [];
  player = makePlayer(tracks, file.seconds, { seams, worst: more.worst || null, top: more.top });
  const marks = make("div", { className: "marks" });
  const mark = (words, to) => {
    const button = make("button", { type: "button" }, words);
    button.addEventListener("click", () => player.seek(to));
    marks.append(button);
  };
  if (more.worst) mark(`lowest quality ${clock(more.worst[0])} to ${clock(more.worst[1])}`, more.worst[0]);
  if (seams.length) marks.append(make("span", { className: "doubtful" }, "speakers may be swapped at"));
  for (const seam of seams.slice(0, 200)) mark(clock(seam), Math.max(0, seam - 1));
  const links = make("ul", { className: "links" });
  for (const track of tracks) {
    const path = visible(track.path), name = track.small ? `${track.label} (${track.small})` : track.label;
    links.append(make("li", {}, `${name}: `, track.url ? make("a", { href: track.href || track.url }, path) : `${path} (${track.gone})`));
  }
  view.replaceChildren(
    make("nav", {}, make("a", { href: "#", className: "back" }, "← All files"), make("span", {}, go(-1, "← previous"), " ", go(1, "next →"))),
    make("h1", {}, file.label),
    facts,
    file.remarks.length ? make("ul", { className: `remarks ${STATUS[file.status]}` }, ...file.remarks.map((remark) => make("li", {}, visible(remark)))) : "",
    player.stage, marks.children.length ? marks : "", tracks.some((track) => track.url) ? player.bar : "", links, player.sounds,
  );
}

function main() {
  overview();
  const table = fileTable();
  let scrolled = 0, was = null;
  function route() {
    const match = /^#file=(\d+)$/.exec(location.hash), file = match ? files[Number(match[1])] : null;
    if (!was && file) scrolled = scrollY;
    if (player) player.close();
    player = null;
    $("overview").hidden = Boolean(file);
    $("file").hidden = !file;
    if (file) {
      openFile(file, table);
      scrollTo(0, 0);
    } else {
      $("file").replaceChildren();
      scrollTo(0, scrolled);
      table.paint();
    }
    was = file;
  }
  addEventListener("hashchange", route);
  addEventListener("keydown", (event) => {
    if (!player || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const step = event.shiftKey ? 1 : STEP;
    const act = {
      " ": () => player.toggle(),
      ArrowLeft: () => player.seek(player.position() - step),
      ArrowRight: () => player.seek(player.position() + step),
      Home: () => player.seek(0),
      Escape: () => (location.hash = ""),
    }[event.key] || (/^[1-9]$/.test(event.key) ? () => player.listen(Number(event.key) - 1) : null);
    if (!act) return;
    event.preventDefault();
    act();
  });
  route();
}

main();
