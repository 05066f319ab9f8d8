// The GPU strip: asks /api/gpu once a second while the page can be seen and draws the last minute.
// Runs inside gr.HTML, which hands it `element`. What a driver or a model's name says only ever
// becomes text or an attribute, never HTML.
// The open panel (assets/gpu_panel.js) lives on the same poll: it hears what comes in werkbank:gpu.
const [strip, note, cards, chips, alert, more] = [".strip", ".note", ".cards", ".chips", ".alert", ".more"].map((name) => element.querySelector(name));
const MINUTE = 60, KEPT = 600, WIDTH = 96, HEIGHT = 22;
const CARD = `<b class="name"></b><svg class="spark" viewBox="0 0 ${WIDTH} ${HEIGHT}" aria-hidden="true"><path class="curve"/></svg>
  <span class="busy"></span><span class="memory"><span class="kind"></span><span class="bar"></span>
  <span class="used"></span></span><span class="extra"></span>`;
let history = [], seq = -MINUTE, timer = 0, asking = false, again = false, silent = 0, chipped = "", open = false;

const rounded = (value, unit) => value == null ? "" : Math.round(value) + unit;
const gb = (bytes) => bytes == null ? "?" : (bytes / 2 ** 30).toFixed(1);
const say = (text, stale) => {
  note.textContent = text.charAt(0).toUpperCase() + text.slice(1);
  strip.classList.toggle("offline", stale);
};
// What each card shows, whatever it stands for: a GPU, or the computer where there is none.
const rowsOf = ({ mode, gpus, host }) => mode !== "cuda"
  ? [{ name: "CPU", kind: "RAM", busy: host.cpu_percent, used: host.ram_used_bytes, total: host.ram_total_bytes, extra: "", device: "cpu" }]
  : gpus.map((g) => ({
    name: (gpus.length > 1 ? g.index + " " : "") + (g.name || "GPU").replace(/^NVIDIA (GeForce )?/, ""), kind: "VRAM",
    busy: g.busy_percent, used: g.used_bytes, total: g.total_bytes, error: g.error, device: "cuda:" + g.index,
    extra: [rounded(g.temperature_c, " °C"), rounded(g.power_w, " W")].filter(Boolean).join(" · ") }));
// One stroke for each stretch without a gap: a minute wide, 0 to 100 percent high.
const curve = (index) => {
  let path = "", last = -Infinity;
  for (const reading of history) {
    const busy = rowsOf(reading)[index]?.busy;
    if (busy == null || history.at(-1).at - reading.at > MINUTE) continue;
    const x = WIDTH * (1 - (history.at(-1).at - reading.at) / MINUTE), y = (HEIGHT - 2) * (1 - busy / 100) + 1;
    path += (reading.at - last > 3 ? "M" : "L") + x.toFixed(1) + " " + y.toFixed(1);
    last = reading.at;
  }
  return path;
};
// What is taken, by the tab that it is for; the rest is other programs.
const drawBar = (bar, { used, total, device }, residents) => {
  const here = residents.filter((r) => r.device === device && r.state !== "parked" && r.kind !== "spare" && r.bytes);
  const rest = Math.max(0, (used ?? 0) - here.reduce((sum, r) => sum + r.bytes, 0));
  bar.replaceChildren(...[...here, { owner: "other", bytes: rest }].filter((r) => total && r.bytes).map((r) => {
    const piece = document.createElement("i");
    piece.dataset.owner = r.owner;
    piece.style.width = Math.min(100, 100 * r.bytes / total) + "%";
    return piece;
  }));
};
const draw = (row, index, residents) => {
  const card = cards.children[index], part = (name) => card.querySelector("." + name);
  const share = row.total ? Math.min(1, (row.used ?? 0) / row.total) : 0;
  const text = { name: row.name, busy: rounded(row.busy, "%") || "n/a", kind: row.kind, extra: row.error || row.extra,
    used: row.total == null ? "n/a" : `${gb(row.used)} / ${gb(row.total)} GB` };
  for (const name in text) part(name).textContent = text[name];
  drawBar(part("bar"), row, residents);
  part("bar").classList.toggle("full", share >= 0.95);
  part("curve").setAttribute("d", curve(index));
  card.classList.toggle("lost", Boolean(row.error));
  card.setAttribute("aria-label", `${row.name}: ` + (row.error || `${text.busy} busy, ${row.kind} ${text.used} used. ${row.extra}`));
};
// The oldest alert and how many more there are; the panel has them all.
const warn = (alerts) => {
  const [first] = alerts;
  alert.hidden = !first;
  if (!first || alert.dataset.shown === (alert.dataset.shown = JSON.stringify(alerts))) return;
  const text = Object.assign(document.createElement("button"), { className: "text", type: "button", title: first.text,
    textContent: first.text + (alerts.length > 1 ? ` (and ${alerts.length - 1} more)` : "") });
  const away = Object.assign(document.createElement("button"), { className: "away", type: "button", title: "Dismiss", ariaLabel: "Dismiss this alert", textContent: "×" });
  away.addEventListener("click", (event) => { event.stopPropagation(); dismiss(first.key); });
  alert.replaceChildren(text, away);
};
const show = (answer, asked) => {
  const { seq: newest, readings, residents = [], alerts = [], error = "", share = null } = answer;
  dispatchEvent(new CustomEvent("werkbank:share", { detail: share }));  // for the banner: one poll serves both
  if (asked < 0) history = [];
  if (seq === asked) seq = newest;  // else the panel was opened meanwhile and wants all
  silent = readings.length ? 0 : silent + 1;
  history = history.concat(readings);
  history = history.filter((reading) => history.at(-1).at - reading.at <= KEPT);
  if (open) dispatchEvent(new CustomEvent("werkbank:gpu", { detail: { ...answer, history } }));
  warn(alerts);
  const rows = readings.length ? rowsOf(history.at(-1)) : [];
  if (rows.length && rows.length !== cards.children.length)
    cards.innerHTML = `<div class="card" role="group">${CARD}</div>`.repeat(rows.length);
  rows.forEach((row, index) => draw(row, index, residents));
  const stuck = silent > 5 ? "No new reading: the driver does not answer. It is asked again each second." : "";
  say(error || stuck || history.at(-1)?.message || "", Boolean(error || stuck));
  if (chipped === (chipped = JSON.stringify(residents))) return;
  chips.replaceChildren(...residents.filter((r) => r.kind !== "spare").map(({ label, bytes, state, owner }) => {
    const chip = Object.assign(document.createElement("span"), { className: "chip" });
    Object.assign(chip.dataset, { state, owner });
    const rest = [bytes == null ? "" : gb(bytes) + " GB", state].filter(Boolean).map((text) => " · " + text).join("");
    chip.title = label + rest;
    chip.append(...[["who", label], ["rest", rest]].map(([className, textContent]) =>
      Object.assign(document.createElement("span"), { className, textContent })));  // a long name gives way, the state does not
    return chip;
  }));
};
const ask = async () => {
  clearTimeout(timer);
  again = asking;
  if (asking || document.hidden) return;
  if (!element.isConnected) return document.removeEventListener("visibilitychange", ask);
  asking = true;
  const started = performance.now(), asked = seq;
  try {
    const url = new URL("api/gpu?seq=" + asked + (open ? "&panel=1" : ""), document.baseURI);
    const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error("status " + answer.status);
    show(await answer.json(), asked);
  } catch (problem) {
    say(`Offline: no answer from Werkbank (${problem.message}). It is asked again each second.`, true);
  }
  asking = false;
  timer = setTimeout(ask, again ? 0 : Math.max(200, 1000 - (performance.now() - started)));
};
const dismiss = async (key) => {
  const url = new URL("api/gpu/dismiss?alert=" + encodeURIComponent(key), document.baseURI);
  try { await fetch(url, { method: "POST" }); } finally { ask(); }
};
const dismissed = (event) => dismiss(event.detail);
const toggle = (event) => {
  if (!element.isConnected) return removeEventListener("werkbank:gpu-panel", toggle);
  if (open === (open = event.detail)) return;
  more.setAttribute("aria-expanded", open);
  if (!open) return more.focus({ preventScroll: true });
  seq = -KEPT;  // all that is remembered, once
  ask();
};
strip.addEventListener("click", () => dispatchEvent(new CustomEvent("werkbank:gpu-panel", { detail: !open })));
addEventListener("werkbank:gpu-panel", toggle);
addEventListener("werkbank:gpu-dismiss", dismissed);
document.addEventListener("visibilitychange", ask);
ask();
