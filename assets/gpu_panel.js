// The panel that a click on the GPU strip opens: each card's memory by holder, what it does, the
// last ten minutes with what ran. The strip's poll feeds it (event werkbank:gpu), and only while it
// is open. What a driver, a program or a model is called only ever becomes text, never HTML.
const panel = element.querySelector(".gpu-panel"), part = (name) => panel.querySelector("." + name);
const W = 300, H = 60, TABS = { chat: "Chat", image: "Image", multimodal: "Multimodal", speech: "Speech", finetune: "Fine-tune", load: "loading" };
let reach = 600, open = false, told = null, sections = [], shape = null;

const make = (tag, className = "", text = "", ...inner) => {
  const made = Object.assign(document.createElement(tag), { className, textContent: text });
  made.append(...inner);
  return made;
};
const drawn = (tag, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  return made;
};
// Written only where it changed: a selection in the panel and the place of the mouse survive a second.
const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const renew = (node, key, children) => { if (node.dataset.key !== (node.dataset.key = key)) node.replaceChildren(...children()); };
const NA = "n/a";
const gb = (bytes) => bytes == null ? NA : bytes >= 2 ** 30 / 10 ? (bytes / 2 ** 30).toFixed(1) + " GB" : Math.round(bytes / 2 ** 20) + " MB";
const unit = (value, name) => value == null ? NA : Math.round(value) + " " + name;
const wh = (value) => value < 0.001 ? "< 0.001 Wh" : value.toFixed(value >= 10 ? 0 : value >= 1 ? 1 : value >= 0.01 ? 2 : 3) + " Wh";
const span = (seconds) => seconds < 60 ? `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s` : seconds < 3600
  ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s` : `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
const rounded = (seconds) => seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
const ago = (seconds) => rounded(seconds) + " ago";
const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const parked = (holder) => holder.state === "parked";

// One card's values out of a reading, or nothing
const gpuOf = (index) => (reading) => reading.gpus.find((gpu) => gpu.index === index && !gpu.error);
const used = (first, last) => first?.energy_j == null || last?.energy_j == null || last.energy_j < first.energy_j ? null : (last.energy_j - first.energy_j) / 3600;
const facts = (gpu, index) => {
  const seen = told.history.filter((reading) => gpuOf(index)(reading)?.energy_j != null);
  const energy = seen.length > 1 ? used(gpuOf(index)(seen[0]), gpu) : null;
  const link = (generation, width) => generation == null && width == null ? NA : `gen ${generation ?? "?"} ×${width ?? "?"}`;
  const most = (text, words) => text === NA ? "" : words + text;
  return [["Busy", unit(gpu.busy_percent, "%")],
    ["Temperature", unit(gpu.temperature_c, "°C"), most(unit(gpu.slowdown_c, "°C"), "slows down at ")],
    ["Power", unit(gpu.power_w, "W"), most(unit(gpu.power_limit_w, "W"), "of ")], ["Fan", unit(gpu.fan_percent, "%")],
    ["SM clock", unit(gpu.sm_clock_mhz, "MHz")], ["Memory clock", unit(gpu.memory_clock_mhz, "MHz")], ["PCIe", link(gpu.pcie_generation, gpu.pcie_width), most(link(gpu.pcie_generation_max, gpu.pcie_width_max), "of ")],
    ["Held back by", gpu.throttled == null ? NA : gpu.throttled.join(", ") || "nothing"],
    ["Energy", energy == null ? NA : wh(energy), energy == null ? "" : "in " + rounded(told.history.at(-1).at - seen[0].at)]];
};

// Memory: one bar, and a line for each holder
const holdersOf = (index) => {
  const gpu = gpuOf(index)(told.history.at(-1)), place = "cuda:" + index, here = told.residents.filter((r) => r.device === place);
  const mine = here.filter((r) => !parked(r)), lines = mine.map((r) => ({ kind: r.owner, name: r.label, bytes: r.bytes, more: r.state, at: true }));
  const models = mine.reduce((sum, r) => sum + (r.bytes ?? 0), 0);
  const own = new Set(told.residents.map((r) => r.pid)), programs = gpu.processes ?? [];
  const ownBytes = programs.filter((p) => own.has(p.pid)).reduce((sum, p) => sum + (p.bytes ?? 0), 0);
  if (ownBytes - models > 2 ** 26) lines.push({ kind: "own", name: "CUDA's own part", bytes: ownBytes - models, at: true });
  for (const r of here.filter(parked)) lines.push({ kind: r.owner, name: r.label, more: `parked${r.bytes ? `, ${gb(r.bytes)} of RAM` : ""}`, parked: true });
  if (gpu.used_bytes == null) return lines;
  const others = programs.filter((p) => !own.has(p.pid)), rest = Math.max(0, gpu.used_bytes - Math.max(models, ownBytes));
  const named = others.map((p) => `${p.name || "process " + p.pid} ${p.bytes == null ? NA : gb(p.bytes)}`).join(", ");
  lines.push({ kind: "other", name: ownBytes || !mine.length ? "Other programs" : "Other programs, and CUDA's own part", bytes: rest, at: true,
    more: named || (gpu.processes == null ? "which ones: n/a" : "") });
  const kept = gpu.total_bytes == null || gpu.free_bytes == null ? 0 : gpu.total_bytes - gpu.used_bytes - gpu.free_bytes;
  if (kept > 2 ** 20) lines.push({ kind: "driver", name: "The driver itself", bytes: kept, at: true });
  lines.push({ kind: "free", name: "Free", bytes: gpu.free_bytes });
  return lines;
};
const ramHolders = (host) => {
  const here = told.residents.filter((r) => r.device === "cpu" || parked(r)), sum = here.reduce((all, r) => all + (r.bytes ?? 0), 0);
  return [...here.map((r) => ({ kind: r.kind === "spare" ? "own" : r.owner, name: r.label, bytes: r.bytes, more: r.state, at: true, parked: parked(r) })),
    ...(host.ram_used_bytes == null ? [] : [{ kind: "other", name: "Everything else", bytes: Math.max(0, host.ram_used_bytes - sum), at: true },
      { kind: "free", name: "Free", bytes: host.ram_total_bytes - host.ram_used_bytes }])];
};
const drawMemory = (section, title, taken, total, lines) => {
  write(section.taken, total == null ? NA : `${gb(taken)} of ${gb(total)}`);
  write(section.what, title);
  const sum = lines.reduce((all, line) => all + (line.at ? line.bytes ?? 0 : 0), 0), most = Math.max(total ?? 0, sum) || 1;
  renew(section.bar, JSON.stringify([lines, total]), () => lines.filter((l) => l.at && l.bytes).map((l) => {
    const piece = make("i", l.parked ? "parked" : "");
    Object.assign(piece.dataset, { owner: l.kind });
    piece.style.width = 100 * l.bytes / most + "%";
    piece.title = `${l.name}: ${gb(l.bytes)}`;
    return piece;
  }));
  section.bar.setAttribute("aria-label", `${title}: ` + lines.map((l) => `${l.name} ${gb(l.bytes)}`).join(", "));
  renew(section.holders, JSON.stringify(lines), () => lines.map((l) => {
    const swatch = make("i", l.parked ? "parked" : "");
    swatch.dataset.owner = l.kind;
    const who = Object.assign(make("span", "who", l.name), { title: l.name }), size = l.parked && l.bytes == null ? "" : gb(l.bytes);
    return make("li", "", "", swatch, who, make("small", "", [TABS[l.kind], l.more].filter(Boolean).join(" · ")), make("b", "", size));
  }));
};

// A chart of ten minutes, the bands of what ran behind it
const chart = (title, name, value, top, mark = () => null) => {
  const picture = drawn("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const [bands, area, line, limit, cursor] = ["g", "path", "path", "path", "path"].map((tag, i) => drawn(tag, { class: ["bands", "area", "line", "limit", "cursor"][i] }));
  picture.append(bands, area, line, limit, cursor);
  const now = make("b"), figure = make("figure", "", "", make("figcaption", "", "", make("span", "", title), now), picture);
  let pointed = null;  // seconds before the newest reading
  const draw = (device) => {
    const newest = told.history.at(-1).at, most = top(told.history.at(-1)) || 1;
    const x = (at) => W * (1 - (newest - at) / reach), y = (number) => (H - 1) * (1 - Math.min(1, number / most)) + 0.5;
    let path = "", filled = "", last = -Infinity, begin = 0, near = null;
    for (const reading of told.history) {
      const number = value(reading);
      if (number == null) continue;
      const fresh = reading.at - last > 3, here = x(reading.at).toFixed(1), high = y(number).toFixed(1);
      if (fresh && path) filled += `L${x(last).toFixed(1)} ${H}L${begin} ${H}Z`;
      if (fresh) begin = here;
      path += (fresh ? "M" : "L") + here + " " + high;
      filled += (fresh ? "M" : "L") + here + " " + high;
      last = reading.at;
      if (pointed != null && Math.abs(newest - reading.at - pointed) < Math.abs(newest - (near?.at ?? -Infinity) - pointed)) near = reading;
    }
    if (path) filled += `L${x(last).toFixed(1)} ${H}L${begin} ${H}Z`;
    line.setAttribute("d", path);
    area.setAttribute("d", filled);
    const edge = mark(told.history.at(-1));
    limit.setAttribute("d", edge == null ? "" : `M0 ${y(edge).toFixed(1)}H${W}`);
    cursor.setAttribute("d", near ? `M${x(near.at).toFixed(1)} 0V${H}` : "");
    const shown = near ?? told.history.at(-1), number = value(shown);
    write(now, (number == null ? NA : (name === "GB" ? number.toFixed(1) : Math.round(number)) + " " + name) + (near ? ` · ${ago(newest - near.at)}` : ""));
    bands.replaceChildren(...told.activity.filter((s) => s.device === device && (s.end ?? newest) > newest - reach).map((s) => {
      const left = Math.max(0, x(s.begin)), width = Math.max(1, x(Math.min(s.end ?? newest, newest)) - left);
      const band = drawn("rect", { x: left.toFixed(1), width: width.toFixed(1), y: 0, height: H });
      band.dataset.owner = s.kind;
      return band;
    }));
  };
  const point = (event) => {
    const box = picture.getBoundingClientRect();
    pointed = event.type === "pointerleave" ? null : reach * (1 - (event.clientX - box.left) / box.width);
    if (told?.history.length) draw(figure.dataset.device);
  };
  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerleave", point);
  return { figure, draw: (device) => { figure.dataset.device = device; draw(device); } };
};
const GB = (bytes) => bytes == null ? null : bytes / 2 ** 30;
const gpuCharts = (index) => {
  const g = gpuOf(index), pick = (name) => (reading) => g(reading)?.[name];
  return [chart("Busy", "%", pick("busy_percent"), () => 100),
    chart("VRAM", "GB", (r) => GB(g(r)?.used_bytes), (r) => GB(g(r)?.total_bytes)),
    chart("Temperature", "°C", pick("temperature_c"), (r) => (g(r)?.slowdown_c ?? 95) + 5, pick("slowdown_c")),
    chart("Power", "W", pick("power_w"), (r) => 1.1 * (g(r)?.power_limit_w ?? Math.max(1, ...told.history.map((h) => g(h)?.power_w ?? 0))), pick("power_limit_w"))];
};
const hostCharts = () => [chart("CPU", "%", (r) => r.host.cpu_percent, () => 100),
  chart("RAM", "GB", (r) => GB(r.host.ram_used_bytes), (r) => GB(r.host.ram_total_bytes))];

const build = (title, charts) => {
  const section = { charts, name: make("h3", "", title), lost: make("p", "lost"), what: make("span"), taken: make("b"), bar: make("div", "bar"),
    holders: make("ul"), facts: make("dl"), begin: make("span"), root: make("section") };
  section.bar.setAttribute("role", "img");
  section.figures = make("div", "charts", "", ...charts.map((c) => c.figure));
  section.well = make("div", "well", "", make("div", "memory", "", section.what, section.taken), section.bar, section.holders, section.facts, section.figures,
    make("div", "axis", "", section.begin, make("span", "", "now")));
  section.root.append(section.name, section.lost, section.well);
  return section;
};
const drawFacts = (section, list) => renew(section.facts, JSON.stringify(list), () => list.map(([name, value, hint]) => {
  const cell = make("dd", "", value, ...(hint ? [" ", make("small", "", hint)] : []));
  if (value === NA) cell.title = "The driver does not tell.";
  return make("div", "", "", make("dt", "", name), cell);
}));
const drawRuns = (newest) => {
  const runs = told.activity.filter((s) => s.kind !== "load").slice(-8).reverse();
  const cells = runs.map((s) => [TABS[s.kind] ?? s.kind, s.label, s.end == null ? "running" : ago(Math.max(0, newest - s.end)), span((s.end ?? newest) - s.begin),
    s.energy_wh == null ? "" : wh(s.energy_wh) + (s.runs > 1 ? ` for ${s.runs}` : ""), s.kind]);
  part("runs").hidden = !runs.length;
  renew(part("rows"), JSON.stringify(cells), () => cells.map(([tab, ...texts]) => {
    const swatch = make("i"), kind = texts.pop();
    swatch.dataset.owner = kind;
    return make("tr", "", "", make("td", "", "", swatch, make("span", "", tab)), ...texts.map((text) => make("td", "", text)));
  }));
};
const draw = () => {
  const newest = told?.history.at(-1);
  if (!open || !newest) return;
  if (shape !== (shape = newest.gpus.map((gpu) => gpu.index).join())) {
    sections = [...newest.gpus.map((gpu) => ({ index: gpu.index, ...build("", gpuCharts(gpu.index)) })), { index: -1, ...build("This computer", hostCharts()) }];
    part("sections").replaceChildren(...sections.map((s) => s.root));
  }
  // Ten minutes, or as many as there are yet
  reach = Math.min(600, Math.max(60, 60 * Math.ceil((newest.at - told.history[0].at) / 60)));
  for (const section of sections) {
    write(section.begin, reach === 60 ? "a minute ago" : `${reach / 60} minutes ago`);
    const { index } = section, gpu = newest.gpus.find((g) => g.index === index), host = newest.host;
    if (index >= 0) {
      write(section.name, `GPU ${index} · ${gpu.name || "unknown"}`);
      write(section.lost, gpu.error);
      section.well.hidden = Boolean(gpu.error);
      if (gpu.error) continue;
      drawMemory(section, "VRAM", gpu.used_bytes, gpu.total_bytes, holdersOf(index));
      drawFacts(section, facts(gpu, index));
    } else {
      drawMemory(section, "RAM", host.ram_used_bytes, host.ram_total_bytes, ramHolders(host));
      drawFacts(section, [["CPU", unit(host.cpu_percent, "%")], ["Free on disk", gb(host.disk_free_bytes)]]);
    }
    section.charts.forEach((c) => c.draw(index < 0 ? "cpu" : "cuda:" + index));
  }
  const text = told.error || (newest.mode === "cuda" ? "" : upper(newest.message).replace(/[^.]$/, "$&."));
  write(part("message"), text);
  drawRuns(told.now ?? newest.at);
  renew(part("alerts"), JSON.stringify(told.alerts), () => told.alerts.map(({ key, text }) => {
    const away = Object.assign(make("button", "", "Dismiss"), { type: "button" });
    away.addEventListener("click", () => dispatchEvent(new CustomEvent("werkbank:gpu-dismiss", { detail: key })));
    return make("li", "", "", make("span", "", text), away);
  }));
};

const place = () => {
  const strip = document.getElementById("gpu-strip")?.getBoundingClientRect();
  const top = innerWidth > 600 ? Math.max(8, (strip?.bottom ?? 0) + 6) : 8;  // a phone has no room for both
  Object.assign(panel.style, { top: top + "px", maxHeight: `calc(100dvh - ${top + 8}px)` });
};
const leave = (event) => {
  const at = document.activeElement, ours = at === document.body || panel.contains(at) || at?.closest("#gpu-strip");
  if (event.key === "Escape" && ours && !event.defaultPrevented) dispatchEvent(new CustomEvent("werkbank:gpu-panel", { detail: false }));
};
const turn = (event) => {
  if (!element.isConnected) return removeEventListener("werkbank:gpu-panel", turn);
  if (open === (open = event.detail)) return;
  panel.togglePopover(open);
  (open ? addEventListener : removeEventListener)("keydown", leave);
  (open ? addEventListener : removeEventListener)("resize", place);
  if (!open) return;
  place();
  draw();
  panel.focus({ preventScroll: true });
};
const hear = (event) => {
  if (!element.isConnected) return removeEventListener("werkbank:gpu", hear);
  if (!open) return;
  told = { residents: [], activity: [], alerts: [], ...event.detail };
  draw();
};
part("close").addEventListener("click", () => dispatchEvent(new CustomEvent("werkbank:gpu-panel", { detail: false })));
addEventListener("werkbank:gpu-panel", turn);
addEventListener("werkbank:gpu", hear);
