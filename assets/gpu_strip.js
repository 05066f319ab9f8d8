// The GPU strip: asks /api/gpu once a second while the page can be seen and draws the last minute.
// Runs inside gr.HTML, which hands it `element`. What a driver or a model's name says only ever
// becomes text or an attribute, never HTML.
const [strip, note, cards, chips] = [".strip", ".note", ".cards", ".chips"].map((name) => element.querySelector(name));
const MINUTE = 60, WIDTH = 96, HEIGHT = 22;
const CARD = `<b class="name"></b><svg class="spark" viewBox="0 0 ${WIDTH} ${HEIGHT}" aria-hidden="true"><path class="curve"/></svg>
  <span class="busy"></span><span class="memory"><span class="kind"></span><span class="bar"><span class="fill"></span></span>
  <span class="used"></span></span><span class="extra"></span>`;
let history = [], seq = -MINUTE, timer = 0, asking = false, silent = 0, chipped = "";

const rounded = (value, unit) => value == null ? "" : Math.round(value) + unit;
const gb = (bytes) => bytes == null ? "?" : (bytes / 2 ** 30).toFixed(1);
const say = (text, stale) => {
  note.textContent = text.charAt(0).toUpperCase() + text.slice(1);
  strip.classList.toggle("offline", stale);
};
// What each card shows, whatever it stands for: a GPU, or the computer where there is none.
const rowsOf = ({ mode, gpus, host }) => mode !== "cuda"
  ? [{ name: "CPU", kind: "RAM", busy: host.cpu_percent, used: host.ram_used_bytes, total: host.ram_total_bytes, extra: "" }]
  : gpus.map((g) => ({
    name: (gpus.length > 1 ? g.index + " " : "") + (g.name || "GPU").replace(/^NVIDIA (GeForce )?/, ""), kind: "VRAM",
    busy: g.busy_percent, used: g.used_bytes, total: g.total_bytes, error: g.error,
    extra: [rounded(g.temperature_c, " °C"), rounded(g.power_w, " W")].filter(Boolean).join(" · ") }));
// One stroke for each stretch without a gap: a minute wide, 0 to 100 percent high.
const curve = (index) => {
  let path = "", last = -Infinity;
  for (const reading of history) {
    const busy = rowsOf(reading)[index]?.busy;
    if (busy == null) continue;
    const x = WIDTH * (1 - (history.at(-1).at - reading.at) / MINUTE), y = (HEIGHT - 2) * (1 - busy / 100) + 1;
    path += (reading.at - last > 3 ? "M" : "L") + x.toFixed(1) + " " + y.toFixed(1);
    last = reading.at;
  }
  return path;
};
const draw = (row, index) => {
  const card = cards.children[index], part = (name) => card.querySelector("." + name);
  const share = row.total ? Math.min(1, (row.used ?? 0) / row.total) : 0;
  const text = { name: row.name, busy: rounded(row.busy, "%") || "n/a", kind: row.kind, extra: row.error || row.extra,
    used: row.total == null ? "n/a" : `${gb(row.used)} / ${gb(row.total)} GB` };
  for (const name in text) part(name).textContent = text[name];
  part("fill").style.width = 100 * share + "%";
  part("fill").classList.toggle("full", share >= 0.95);
  part("curve").setAttribute("d", curve(index));
  card.classList.toggle("lost", Boolean(row.error));
  card.setAttribute("aria-label", `${row.name}: ` + (row.error || `${text.busy} busy, ${row.kind} ${text.used} used. ${row.extra}`));
};
const show = ({ seq: newest, readings, residents = [], error = "", share = null }) => {
  dispatchEvent(new CustomEvent("werkbank:share", { detail: share }));  // for the banner: one poll serves both
  seq = newest;
  silent = readings.length ? 0 : silent + 1;
  history = history.concat(readings);
  history = history.filter((reading) => history.at(-1).at - reading.at <= MINUTE);
  const rows = readings.length ? rowsOf(history.at(-1)) : [];
  if (rows.length && rows.length !== cards.children.length)
    cards.innerHTML = `<div class="card" role="group">${CARD}</div>`.repeat(rows.length);
  rows.forEach(draw);
  const stuck = silent > 5 ? "No new reading: the driver does not answer. It is asked again each second." : "";
  say(error || stuck || history.at(-1)?.message || "", Boolean(error || stuck));
  if (chipped === (chipped = JSON.stringify(residents))) return;
  chips.replaceChildren(...residents.map(({ label, bytes, state }) => {
    const chip = Object.assign(document.createElement("span"), { className: "chip" });
    chip.dataset.state = state;
    chip.textContent = chip.title = [label, bytes == null ? "" : gb(bytes) + " GB", state].filter(Boolean).join(" · ");
    return chip;
  }));
};
const ask = async () => {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  if (!element.isConnected) return document.removeEventListener("visibilitychange", ask);
  asking = true;
  const started = performance.now();
  try {
    const url = new URL("api/gpu?seq=" + seq, document.baseURI);
    const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error("status " + answer.status);
    show(await answer.json());
  } catch (problem) {
    say(`Offline: no answer from Werkbank (${problem.message}). It is asked again each second.`, true);
  }
  asking = false;
  timer = setTimeout(ask, Math.max(200, 1000 - (performance.now() - started)));
};
document.addEventListener("visibilitychange", ask);
ask();
