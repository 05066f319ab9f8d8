// The banner over all tabs. The GPU strip's poll says whether anything is shared; what changes
// seldom (address, passphrase, QR code) is asked for when its version has moved. Everything that
// is shown becomes text or an attribute, never HTML.
const root = element.querySelector(".share");
let known = null, brief = null, full = null, busy = false;

const make = (tag, options = {}, ...inner) => {
  const made = Object.assign(document.createElement(tag), options);
  made.append(...inner);
  return made;
};
const span = (seconds) => {
  const h = Math.floor(seconds / 3600), m = Math.floor(seconds / 60) % 60;
  return h ? `${h} h ${m} min` : m ? `${m} min` : `${seconds} s`;
};
const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const call = async (path, body) => {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(new URL("api/share" + path, document.baseURI), { cache: "no-store", ...options });
  if (!answer.ok) throw new Error("status " + answer.status);
  return answer.json();
};
const act = (label, kind, path, body) => make("button", { textContent: label, className: kind, type: "button", onclick: async (event) => {
  busy = true;
  event.target.disabled = true;
  event.target.textContent = "…";
  try { draw(await call(path, body)); }
  catch (problem) { event.target.textContent = "Failed: " + problem.message; }
  busy = false;
} });
const copyable = (name, text, href) => {
  const copy = make("button", { textContent: "Copy", type: "button", className: "plain", ariaLabel: "Copy " + name, onclick: async () => {
    try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(shown); copy.textContent = "Press Ctrl+C"; }
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  } });
  const shown = href ? make("a", { textContent: text, href, target: "_blank", rel: "noopener noreferrer" }) : make("code", { textContent: text });
  return make("span", { className: "pair " + name }, make("span", { className: "name", textContent: name }), shown, copy);
};
const count = () => {
  const place = root.querySelector(".count");
  if (!place || !brief || brief.state !== "on") return;
  place.textContent = [`ends in ${span(brief.seconds)}`, many(brief.visitors, "visitor") + (brief.visitors ? ` (${brief.here} here)` : ""),
    many(brief.messages, "message")].join(" · ");
};
const draw = (state) => {
  full = state;
  root.hidden = state.state === "off";
  root.dataset.state = state.state;
  if (state.state === "off") return root.replaceChildren();
  const stop = (label, kind = "stop") => act(label, kind, "/stop", {});
  if (state.state === "starting")
    return root.replaceChildren(make("b", { textContent: "Sharing" }), make("span", { textContent: `${state.note}…` }), stop("Cancel"));
  if (state.state === "on") {
    const code = make("details", { className: "qr" }, make("summary", { textContent: "QR code" }),
      make("img", { src: state.qr, alt: "QR code of the address", width: 165, height: 165 }));
    const network = state.where === "lan" ? make("span", { className: "hint", textContent: "Works in your local network only, not encrypted." }) : "";
    root.replaceChildren(make("b", { textContent: `${state.model} is shared` }), copyable("address", state.url, state.url),
      copyable("passphrase", state.passphrase), make("span", { className: "count" }), network, code, stop("Stop sharing"));
    return count();
  }
  const mend = state.state === "failed"
    ? [act("Try again", "plain", "/again", { where: state.where }), ...(state.where === "lan" ? [] : [act("Share on the local network", "plain", "/again", { where: "lan" })])] : [];
  const more = state.detail ? make("details", {}, make("summary", { textContent: "Details" }), make("pre", { textContent: state.detail })) : "";
  root.replaceChildren(make("span", { className: "said", role: "alert", textContent: state.problem }), more, ...mend, stop("Close", "plain"));
};
const hear = async (event) => {
  if (!element.isConnected) return removeEventListener("werkbank:share", hear);
  brief = event.detail;
  if (busy) return;
  if (!brief) { known = null; return full && full.state !== "off" ? draw({ state: "off" }) : undefined; }
  if (brief.version !== known || brief.state === "starting") {
    busy = true;
    try { draw(await call("")); known = brief.version; } catch { known = null; }
    busy = false;
  }
  count();
};
addEventListener("werkbank:share", hear);
// What is as high as the window makes room for the banner.
new ResizeObserver(() => document.documentElement.style.setProperty("--banner", root.offsetHeight ? root.offsetHeight + 6 + "px" : "0px")).observe(root);
