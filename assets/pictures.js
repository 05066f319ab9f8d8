// The pictures: what is being drawn, what waits, and all that were drawn. Asked for while it can be
// seen: the queue twice a second while something is drawn, else now and then; the gallery when a
// picture has come. Runs inside gr.HTML, which hands it `element` and `trigger`. What a picture says
// of itself only becomes text.
const $ = (name) => element.querySelector('.' + name);
const make = (tag, className, text = '', more = {}) => Object.assign(document.createElement(tag), { className, textContent: text, ...more });
const PAGE = 60, MOST = 500, BUSY = 500, IDLE = 2000;
const STATES = { waiting: 'waiting', running: 'drawing', done: 'done', failed: 'failed', cancelled: 'cancelled', interrupted: 'interrupted' };
let queue = { entries: [], paused: false, newest: '' }, shown = [], next = '', total = 0, seen = null, timer = 0, asking = false, open = '', undo = '', drawnQueue = '', typed = 0, turn = 0;

const at = (path) => new URL(path, document.baseURI);
const ask = async (path, more = {}) => {
  const answer = await fetch(at(path), { cache: 'no-store', signal: AbortSignal.timeout(8000), ...more });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(said.error || 'status ' + answer.status), { told: said.error });
  return said;
};
const post = (path) => ask(path, { method: 'POST' });
const say = (text, kind = 'note', back = '') => {
  undo = back;
  $('said').hidden = !text;
  $('said').className = 'said line ' + kind;
  $('said').replaceChildren(make('span', '', text), ...(back ? [make('button', 'back', 'Undo', { type: 'button' })] : []));
};
const picture = (id, kind) => at(`api/pictures/${encodeURIComponent(id)}/${kind}`).href;
const button = (act, text, id, label = '') => {
  const it = make('button', 'act', text, { type: 'button' });
  Object.assign(it.dataset, { act, id });
  if (label) { it.title = label; it.setAttribute('aria-label', label); }
  return it;
};

// What is drawn now, and what waits

const titled = (entry) => entry.prompt.trim() || entry.title;
const words = (entry) => {
  const where = entry.state === 'running' && entry.total ? `step ${Math.round(entry.step)} of ${Math.round(entry.total)}` : '';
  const many = entry.runs > 1 ? `${Math.min(entry.done_runs + 1, entry.runs)} of ${entry.runs}` : '';
  return [STATES[entry.state] ?? entry.state, many, entry.status || where].filter(Boolean).join(' · ');
};
const drawQueue = () => {
  const running = queue.entries.find((e) => e.state === 'running'), waiting = queue.entries.filter((e) => (e.state !== 'done' || e.note) && e !== running);
  drawNow(running);
  // Only where something has changed: a button that is pressed or focused stays the same one.
  const text = JSON.stringify([waiting, queue.paused, queue.why]);
  if (text === drawnQueue) return;
  drawnQueue = text;
  drawWaiting(waiting);
};
const drawNow = (running) => {
  $('now').hidden = !running;
  if (running) {
    $('now').querySelector('.what').textContent = titled(running);
    $('now').querySelector('.how').textContent = words(running);
    $('now').querySelector('.why').textContent = running.note;
    const share = running.total ? Math.min(100, 100 * running.step / running.total) : 0;
    const bar = $('now').querySelector('.bar');
    bar.classList.toggle('unknown', !running.total);
    bar.querySelector('i').style.width = share + '%';
    bar.setAttribute('aria-valuenow', Math.round(share));
    $('now').querySelector('.act').dataset.id = running.id;
    const preview = $('now').querySelector('img');
    preview.hidden = !running.preview;
    if (running.preview && preview.dataset.of !== running.preview) { preview.dataset.of = running.preview; preview.src = running.preview; }
  }
};
const drawWaiting = (waiting) => {
  $('waiting').hidden = !waiting.length && !queue.paused;
  $('waiting').querySelector('.title').textContent = queue.why || (queue.paused ? 'The queue is paused' : 'Waiting and ended');
  const hold = $('waiting').querySelector('.hold');
  hold.textContent = queue.paused ? 'Go on' : 'Pause';
  hold.dataset.act = queue.paused ? 'resume' : 'pause';
  $('waiting').querySelector('ol').replaceChildren(...waiting.map((entry, n) => {
    const row = make('li', ''), told = make('span', 'told', words(entry));
    told.dataset.state = entry.state;
    row.append(make('span', 'what', titled(entry)), told);
    if (entry.note) row.append(make('span', 'why', entry.note));
    const buttons = make('span', 'buttons');
    if (entry.state === 'waiting') {
      const before = waiting[n - 1];
      if (before?.state === 'waiting') {
        const up = button('move', '↑', entry.id, `Draw ${titled(entry)} earlier`);
        up.dataset.before = before.id;
        buttons.append(up);
      }
      buttons.append(button('cancel', 'Cancel', entry.id));
    } else buttons.append(button('retry', 'Again', entry.id), button('remove', 'Remove', entry.id));
    row.append(buttons);
    return row;
  }));
};

// The gallery

const keyOf = (p) => `${p.id} ${p.favourite}`;
const tile = (p) => {
  const it = make('button', 'tile', '', { type: 'button' });
  it.dataset.open = p.id;
  it.dataset.key = keyOf(p);
  it.setAttribute('aria-label', p.prompt || 'Picture without a prompt');
  const image = make('img', '', '', { loading: 'lazy', decoding: 'async', alt: '', src: at(p.thumb).href });
  it.append(image);
  if (p.favourite) it.append(make('span', 'star', '★'));
  return it;
};
const drawGallery = () => {
  const there = new Map([...$('grid').children].map((it) => [it.dataset.key, it]));
  $('grid').replaceChildren(...shown.map((p) => there.get(keyOf(p)) ?? tile(p)));
  $('more').hidden = !next;
  $('count').textContent = total ? `${total.toLocaleString('en')} picture${total === 1 ? '' : 's'}` : '';
  const searching = $('words').value.trim() || $('of').value || $('liked').checked;
  $('empty').hidden = shown.length > 0;
  $('empty').textContent = searching ? 'No picture fits this search.' : 'Nothing drawn yet. Write what is to be seen, and press Draw.';
};
const query = (before, limit) => new URLSearchParams({ words: $('words').value, model: $('of').value, favourites: $('liked').checked, before, limit });
// `keep`: as many as are shown already, since somebody may have gone far down.
const load = async (further = false, keep = false) => {
  const limit = keep ? Math.min(MOST, Math.max(PAGE, shown.length)) : PAGE;
  const mine = ++turn, said = await ask('api/pictures?' + query(further ? next : '', limit));
  if (mine !== turn) return;  // something else was searched for meanwhile
  shown = further ? [...shown, ...said.pictures.filter((p) => !shown.some((s) => s.id === p.id))] : said.pictures;
  [next, total] = [said.next, said.total];
  if (said.notice) say(said.notice, 'bad');
  drawGallery();
};
const loadModels = async () => {
  const { models } = await ask('api/pictures/models'), now = $('of').value;
  $('of').replaceChildren(make('option', '', 'All models', { value: '' }), ...models.map((m) => make('option', '', `${m.title} (${m.count})`, { value: m.ref })));
  $('of').value = now;
};

// One picture, large

const NAMES = { negative: 'Not', model_title: 'Model', seed: 'Seed', steps: 'Steps', guidance: 'Guidance', scheduler: 'Scheduler', strength: 'Change', variation: 'Variation', enlarge: 'Enlarged' };
const show = async (id) => {
  const p = shown.find((one) => one.id === id);
  if (!p) return;
  open = id;
  const box = $('large');
  box.querySelector('img').src = picture(id, 'file') + '?show=true';
  box.querySelector('img').alt = p.prompt;
  box.querySelector('.prompt').textContent = p.prompt;
  box.querySelector('dl').replaceChildren();
  const star = box.querySelector('[data-act=favourite]');
  star.textContent = p.favourite ? '★ Favourite' : '☆ Favourite';
  box.querySelector('a').href = picture(id, 'file');
  if (!box.open) box.showModal();
  try {
    const recipe = await ask(`api/pictures/${encodeURIComponent(id)}/recipe`);
    if (open !== id) return;
    const rows = [['Size', `${p.width} × ${p.height}`], ...Object.entries(NAMES).map(([key, name]) => [name, recipe[key]])];
    for (const one of recipe.adapters ?? []) rows.push(['Adapter', `${one.ref} × ${one.weight}`]);
    box.querySelector('dl').replaceChildren(...rows.filter(([, v]) => v !== undefined && v !== '' && v !== null).flatMap(([name, value]) => [make('dt', '', name), make('dd', '', String(value))]));
  } catch (error) { say(error.told || 'Werkbank does not answer.', 'bad'); }
};
const step = (by) => { const n = shown.findIndex((p) => p.id === open); if (n >= 0 && shown[n + by]) show(shown[n + by].id); };

// What the buttons do

const acts = {
  favourite: async (id) => {
    const p = shown.find((one) => one.id === id);
    if (!p) return;
    await post(`api/pictures/${id}/favourite?on=${!p.favourite}`);
    p.favourite = !p.favourite;
    drawGallery();
    if (open === id) $('large').querySelector('[data-act=favourite]').textContent = p.favourite ? '★ Favourite' : '☆ Favourite';
  },
  delete: async (id) => {
    await post(`api/pictures/${id}/delete`);
    $('large').close();
    say('The picture was deleted. It can be brought back for a day.', 'note', id);
    await load();
  },
  use: (id) => { $('large').close(); trigger('act', { act: 'use', id }); },
  begin: (id) => { $('large').close(); trigger('act', { act: 'begin', id }); },
  vary: (id) => { $('large').close(); trigger('act', { act: 'vary', id }); },
};
const deeds = { cancel: 'cancel', retry: 'retry', remove: 'delete', move: 'move' }, whole = ['pause', 'resume'];
element.addEventListener('click', async (event) => {
  const chosen = event.target.closest('button');
  if (!chosen) return;
  const { act, id = '' } = chosen.dataset;
  try {
    if (chosen.dataset.open) await show(chosen.dataset.open);
    else if (chosen.matches('.back')) { await post(`api/pictures/${undo}/restore`); say(''); await load(); }
    else if (chosen.matches('.more')) await load(true);
    else if (chosen.matches('.close')) $('large').close();
    else if (chosen.matches('.step')) step(Number(chosen.dataset.by));
    else if (whole.includes(act)) { await post(`api/queue/${act}`); await poll(); }
    else if (deeds[act]) { await post(`api/queue/${id}/${deeds[act]}?before=${chosen.dataset.before ?? ''}`); await poll(); }
    else if (acts[act]) await acts[act](id || open);
  } catch (error) { say(error.told || 'Werkbank does not answer. Nothing was changed.', 'bad'); }
});
element.addEventListener('keydown', (event) => {
  if (!$('large').open) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) { step(by); event.preventDefault(); }
});
$('large').addEventListener('click', (event) => { if (event.target === $('large')) $('large').close(); });
$('large').addEventListener('close', () => { open = ''; });
const search = () => load().catch((error) => say(error.told || 'Werkbank does not answer.', 'bad'));
$('words').addEventListener('input', () => { clearTimeout(typed); typed = setTimeout(search, 200); });
for (const name of ['of', 'liked']) $(name).addEventListener('change', search);

// The poll

const poll = async () => {
  clearTimeout(timer);
  if (asking) return;
  asking = true;
  try {
    if (element.isConnected && element.offsetParent && !document.hidden) {
      queue = await ask('api/queue');
      $('offline').hidden = true;
      if (queue.newest !== seen) {
        const newest = queue.newest;
        await load(false, true);
        await loadModels();
        seen = newest;
      }
      if (queue.notice) say(queue.notice, 'bad');
      drawQueue();
    }
  } catch (error) { $('offline').hidden = !!error.told; } finally { asking = false; }
  timer = setTimeout(poll, queue.entries.some((e) => e.state === 'running' || e.state === 'waiting') && !queue.paused ? BUSY : IDLE);
};
document.addEventListener('visibilitychange', poll);
document.addEventListener('click', (event) => { if (event.target.closest('#image-draw, #tab-image-button')) setTimeout(poll, 150); });
poll();
