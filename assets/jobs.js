// The trainings: the list, and of the chosen one its curve, its figures, and what the questions that
// are watched were answered. Asked for once a second while it can be seen; only what is new comes.
// Runs inside gr.HTML, which hands it `element` and `trigger`. What a job says only becomes text.
const $ = (name) => element.querySelector('.' + name);
const make = (tag, className, text = '', more = {}) => Object.assign(document.createElement(tag), { className, textContent: text, ...more });
const NS = 'http://www.w3.org/2000/svg', WIDTH = 640, HEIGHT = 200, LEFT = 46, BOTTOM = 18, TOP = 8;
const WORDS = { new: 'not started', queued: 'waiting', starting: 'starting', loading: 'loading', running: 'training', pausing: 'pausing',
  stopping: 'stopping', finished: 'finished', stopped: 'stopped', paused: 'paused', failed: 'failed', diverged: 'diverged', interrupted: 'interrupted' };
const SHOWN = { loss: 'Loss', learning_rate: 'Learning rate', grad_norm: 'Gradient norm', tokens_per_second: 'Tokens/s', memory: 'Memory' };
const remember = (key, value) => { try { value === undefined || sessionStorage.setItem('werkbank-' + key, value); return sessionStorage.getItem('werkbank-' + key) || ''; } catch { return ''; } };
let jobs = [], deleted = [], clicks = {}, seen = null, chosen = remember('job'), other = '', runs = {}, timer = 0, asking = false, again = false, stepShown = null, listed = '', leaving = null;

const size = (bytes) => bytes >= 1e9 ? (bytes / 1e9).toFixed(1) + ' GB' : Math.round(bytes / 1e6) + ' MB';
const number = (value) => value == null ? '–' : Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString('en') : Math.abs(value) >= 100 ? value.toFixed(0)
  : Math.abs(value) >= 0.01 || value === 0 ? value.toPrecision(3) : value.toExponential(1);
const figure = (name, value) => value == null ? '–' : name === 'memory' ? size(value) : name === 'loss' || name === 'validation_loss' ? value.toFixed(3) : number(value);
const span = (seconds) => seconds == null ? '' : seconds < 90 ? Math.round(seconds) + ' s' : seconds < 5400 ? Math.round(seconds / 60) + ' min'
  : (seconds / 3600).toFixed(1) + ' h';
const get = async (path) => {
  const answer = await fetch(new URL(path, document.baseURI), { cache: 'no-store', signal: AbortSignal.timeout(5000) });
  if (!answer.ok && answer.status !== 404) throw new Error('status ' + answer.status);
  return answer.ok ? answer.json() : null;
};

// What is known of a run, grown by what each answer brings. A later line of a step counts.
const fetchRun = async (id) => {
  const run = runs[id] ??= { points: new Map(), samples: [], metrics: 0, sampled: 0 };
  const said = await get(`api/jobs/${encodeURIComponent(id)}?metrics=${run.metrics}&samples=${run.sampled}`);
  if (!said) return delete runs[id];
  for (const line of said.metrics) run.points.set(line.step, line);
  run.samples.push(...said.samples);
  Object.assign(run, { job: said.job, about: said.about, snapshots: said.snapshots, notices: said.notices, corrected: said.corrected ?? run.corrected, merging: said.merging, disk: said.disk_bytes,
    metrics: said.metrics_byte, sampled: said.samples_byte });
};
const lines = (run) => [...run.points.values()].sort((a, b) => a.step - b.step);

// The list

const drawList = () => {
  const text = JSON.stringify([jobs.map((j) => [j.id, j.name, j.status, Math.round(j.step), j.total, j.position]), chosen, deleted]);
  if (text === listed) return;
  listed = text;
  element.classList.toggle('none', !jobs.length && !deleted.length && $('gone').hidden);
  $('trash').hidden = !deleted.length;
  $('trash').querySelector('summary').textContent = `Deleted (${deleted.length})`;
  $('trash').querySelector('ul').replaceChildren(...deleted.map(({ id, name }) => {
    const row = make('li', ''), back = make('button', '', 'Put back', { type: 'button' });
    Object.assign(back.dataset, { act: 'undo', id });
    back.setAttribute('aria-label', `Put back ${name}`);
    row.append(make('span', 'who', name), back);
    return row;
  }));
  $('list').replaceChildren(...jobs.map((job) => {
    const row = make('button', 'job', '', { type: 'button', title: job.id });
    row.dataset.id = job.id;
    row.setAttribute('aria-pressed', job.id === chosen);
    const where = job.position ? `${job.position}. in the queue` : WORDS[job.status] ?? job.status;
    const steps = job.total && job.status !== 'finished' ? `${Math.round(job.step)}/${Math.round(job.total)}` : '';
    const state = make('span', 'state', where);
    state.dataset.state = job.status;
    row.append(make('span', 'who', job.name), make('span', 'steps', steps), state);
    return row;
  }));
};

// The curve

const node = (tag, more) => { const it = document.createElementNS(NS, tag); for (const key in more) it.setAttribute(key, more[key]); return it; };
const smooth = (points) => {
  let mean = null;
  const keep = Math.min(0.9, Math.max(0, 1 - 12 / Math.max(1, points.length)));
  return points.map(([x, y]) => [x, mean = mean == null ? y : keep * mean + (1 - keep) * y]);
};
const ticks = (low, high, count) => {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(at);
  return found;
};
const drawCurve = () => {
  const svg = $('curve'), run = runs[chosen], what = $('what').value;
  const series = [];
  const add = (points, kind) => points.length && series.push({ points, kind });
  const of = (r, name) => lines(r).filter((l) => l[name] != null).map((l) => [l.step, l[name]]);
  if (runs[other]) add(smooth(of(runs[other], what)), 'other');
  const own = of(run, what);
  if (what === 'loss') add(own, 'raw');
  add(what === 'loss' ? smooth(own) : own, 'own');
  if (what === 'loss') add(of(run, 'validation_loss'), 'validation');
  const all = series.flatMap((s) => s.points);
  $('chart').hidden = !all.length;
  if (!all.length) return;
  const right = Math.max(run.job.total || 0, ...all.map(([x]) => x)), values = all.map(([, y]) => y).sort((a, b) => a - b);
  let low = values[0], high = values.at(-1);
  if (what === 'loss' && values.length > 40) high = Math.max(values[Math.floor(values.length * 0.995)], low * 1.01);  // one spike hides no curve
  if (what === 'tokens_per_second' || what === 'memory') low = 0;
  if (high === low) { high += Math.abs(high) * 0.1 || 1; low -= Math.abs(low) * 0.1; }
  const x = (v) => LEFT + (WIDTH - LEFT - 6) * v / (right || 1), y = (v) => TOP + (HEIGHT - BOTTOM - TOP) * (1 - (Math.min(v, high) - low) / (high - low));
  const parts = [];
  for (const at of ticks(low, high, 4)) {
    parts.push(node('line', { class: 'grid', x1: LEFT, x2: WIDTH - 6, y1: y(at), y2: y(at) }));
    const label = node('text', { class: 'tick', x: LEFT - 5, y: y(at) + 3.5, 'text-anchor': 'end' });
    label.textContent = what === 'memory' ? size(at) : number(+at.toPrecision(6));
    parts.push(label);
  }
  for (const at of ticks(0, right, 6).filter(Number.isInteger)) {
    const label = node('text', { class: 'tick', x: x(at), y: HEIGHT - 4, 'text-anchor': 'middle' });
    label.textContent = at.toLocaleString('en');
    parts.push(label);
  }
  for (const { points, kind } of series) {
    const d = points.map(([px, py], n) => (n ? 'L' : 'M') + x(px).toFixed(1) + ' ' + y(py).toFixed(1)).join('');
    parts.push(node('path', { class: kind, d }));
    if (kind === 'validation' || points.length === 1) for (const [px, py] of points) parts.push(node('circle', { class: kind, cx: x(px), cy: y(py), r: 2.5 }));
  }
  svg.replaceChildren(...parts);
  const last = own.at(-1);
  svg.setAttribute('aria-label', `${SHOWN[what]} by step${last ? `, ${figure(what, last[1])} at step ${last[0]}` : ''}`);
  svg.onpointermove = (event) => {
    const box = svg.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width * WIDTH - LEFT) / (WIDTH - LEFT - 6) * right;
    const near = lines(run).reduce((a, b) => Math.abs(b.step - at) < Math.abs(a.step - at) ? b : a);
    const names = [what, ...(what === 'loss' && near.validation_loss != null ? ['validation_loss'] : [])];
    $('under').textContent = `Step ${near.step}: ` + names.map((n) => (n === 'validation_loss' ? 'validation ' : '') + figure(n, near[n])).join(', ');
  };
  svg.onpointerleave = () => { $('under').textContent = ''; };
};

// What was answered, before and at the step of the slider

const drawAnswers = () => {
  const run = runs[chosen], byStep = new Map(), prompts = [];
  for (const { step, prompt, answer } of run.samples) {
    if (!byStep.has(step)) byStep.set(step, new Map());
    byStep.get(step).set(prompt, answer);
    if (!prompts.includes(prompt)) prompts.push(prompt);
  }
  const kept = new Map(run.snapshots.filter((s) => s.sealed).map((s) => [s.step, s]));
  const steps = [...new Set([...byStep.keys(), ...kept.keys()])].sort((a, b) => a - b).filter((s) => s > 0);
  $('watch').hidden = !steps.length && !byStep.size;
  const at = steps.includes(stepShown) ? stepShown : steps.at(-1) ?? 0;
  const slider = $('step');
  slider.max = Math.max(0, steps.length - 1);
  slider.hidden = steps.length < 2;
  if (document.activeElement !== slider || stepShown == null) slider.value = steps.indexOf(at);
  slider.oninput = () => { stepShown = Number(slider.value) === steps.length - 1 ? null : steps[slider.value]; drawAnswers(); };
  const snapshot = kept.get(at);
  $('where').textContent = at ? `Step ${at}` + (snapshot ? (snapshot.pinned ? ', kept for good' : '') : ', made room for newer ones') : 'Before the training';
  const buttons = at && snapshot ? [
    button('snapshot-chat', 'Chat with it', { step: at }), button('snapshot-compare', 'Beside the base', { step: at }),
    button('keep', snapshot.pinned ? 'Let it go' : 'Keep this one', { step: at, keep: snapshot.pinned ? '' : 1 })] : [];
  renew($('snapshot'), buttons);
  const now = (prompt) => byStep.get(at)?.get(prompt);
  const text = JSON.stringify([at, prompts, prompts.map((p) => [byStep.get(0)?.get(p), now(p)])]);
  if ($('answers').dataset.shown === text) return;
  $('answers').dataset.shown = text;
  $('answers').replaceChildren(...prompts.flatMap((prompt) => {
    const cells = [make('p', 'asked', prompt), make('p', 'said', byStep.get(0)?.get(prompt) ?? '…')];
    cells[1].dataset.label = 'Before';
    if (at) { cells.push(make('p', 'said after', now(prompt) ?? '…')); cells[2].dataset.label = `Step ${at}`; }
    return cells;
  }));
};

// The chosen one

const button = (act, text, more = {}) => {
  const it = make('button', '', text, { type: 'button' });
  Object.assign(it.dataset, { act, id: chosen, ...more });  // of the job that it was drawn for
  return it;
};
// Buttons that stay the same stay the same nodes: none is taken away under a finger.
const renew = (place, buttons) => {
  const text = buttons.map((b) => b.outerHTML).join();
  if (place.dataset.shown === text) return;
  place.dataset.shown = text;
  place.replaceChildren(...buttons);
};
const buttonsFor = (job, { merging, about }) => {
  const whole = about.params?.adapter === 'full';  // a model already: there is nothing to save, take or merge
  const found = [], busy = job.status === 'pausing' || job.status === 'stopping';
  if (job.live && !busy) found.push(button('pause', 'Pause'), button('stop', 'Stop'));
  if (busy) found.push(button('stop', 'Stop'));
  if (job.status === 'queued') {
    if (job.position > 1) found.push(button('move', '↑ Sooner', { to: job.position - 1 }));
    if (jobs.some((j) => j.position > job.position)) found.push(button('move', '↓ Later', { to: job.position + 1 }));
    found.push(button('start', 'Start now'), button('pause', 'Out of the queue'));
  }
  if (job.status === 'new') found.push(button('resume', 'Start'));
  if (job.resumable) found.push(button('resume', 'Resume'));
  if (job.status === 'finished') found.push(button('chat', 'Chat with it'), button('compare', 'Beside the base'), ...whole ? [] : [button('save', 'Save the adapter'),
    button('zip', 'Download'), merging ? button('unmerge', 'Cancel merging') : button('merge', 'Merge')]);
  if (job.status !== 'new') found.push(button('card', 'Run card'));
  if (!job.live) found.push(button('again', 'Run again'), button('delete', 'Delete'));
  found.push(button('rename', 'Rename'));
  return found;
};
const drawChosen = () => {
  const run = runs[chosen];
  $('chosen').hidden = !run?.job;
  if (!run?.job) return;
  const { job, about } = run, all = lines(run), last = all.at(-1) ?? {};
  $('name').textContent = job.name;
  const state = $('status');
  state.textContent = job.position ? `${job.position}. in the queue` : WORDS[job.status] ?? job.status;
  state.dataset.state = job.status;
  renew($('buttons'), buttonsFor(job, run));
  $('about').textContent = [`${about.base ?? ''} on ${about.dataset || 'no dataset'}`, size(run.disk) + ' of disk', run.corrected].filter(Boolean).join(' · ');
  const bad = ['failed', 'diverged', 'interrupted'].includes(job.status), note = [job.message, job.hint].filter(Boolean).join(' ');
  $('words').textContent = job.status !== 'running' ? note.charAt(0).toUpperCase() + note.slice(1)
    : job.total ? '' : 'It reads the dataset and answers your questions before it learns.';
  $('words').className = 'words line ' + (bad ? 'bad' : job.status === 'finished' ? 'good' : 'note');
  $('detail').hidden = !job.detail || !bad;
  $('detail').querySelector('pre').textContent = job.detail ?? '';
  const share = job.total ? Math.min(1, job.step / job.total) : 0;
  $('progress').hidden = !job.live;
  $('progress').classList.toggle('moving', job.live && !job.total);
  $('progress').firstElementChild.style.width = (job.total ? 100 * share : 0) + '%';
  const eta = job.live && job.eta_seconds != null ? span(job.eta_seconds) + ' left' : '';
  const figures = [['Step', job.total ? `${Math.round(job.step)} of ${Math.round(job.total)}` : ''], ['Loss', last.loss == null ? '' : figure('loss', last.loss)],
    ['Validation', [...all].reverse().find((l) => l.validation_loss != null)?.validation_loss?.toFixed(3) ?? ''],
    ['Learning rate', last.learning_rate == null ? '' : number(last.learning_rate)], ['Gradient norm', last.grad_norm == null ? '' : number(last.grad_norm)],
    ['Tokens/s', last.tokens_per_second == null ? '' : number(last.tokens_per_second)], ['Memory', last.memory ? size(last.memory) : ''], ['Time', eta]];
  $('figures').replaceChildren(...figures.filter(([, v]) => v).flatMap(([k, v]) => { const cell = make('div', ''); cell.append(make('dt', '', k), make('dd', '', v)); return [cell]; }));
  $('notices').replaceChildren(...run.notices.map((text) => make('li', '', text)));
  const rest = jobs.filter((j) => j.id !== chosen && (j.step || j.status === 'finished'));
  const options = JSON.stringify(rest.map((j) => [j.id, j.name]));
  if ($('against').dataset.shown !== options) {
    $('against').dataset.shown = options;
    $('against').replaceChildren(new Option('no other run', ''), ...rest.map((j) => new Option(j.name, j.id)));
    $('against').value = other = rest.some((j) => j.id === other) ? other : '';
  }
  $('beside').hidden = !rest.length;
  drawCurve();
  drawAnswers();
};

// A deleted one comes back by a click, for as long as the line stands.
const bring = (id, name) => {
  const undo = make('button', '', 'Undo', { type: 'button' });
  undo.onclick = () => { trigger('act', { act: 'undo', id, step: '', keep: '', to: '', text: '' }); $('gone').hidden = true; setTimeout(ask, 300); };
  $('gone').replaceChildren(`${name} is deleted, and kept for a day. `, undo);
  $('gone').hidden = false;
};

// Asking

const choose = (id) => { chosen = id; stepShown = null; if (other === id) other = ''; remember('job', id); };
const ask = async () => {
  clearTimeout(timer);
  if (!element.isConnected) return document.removeEventListener('visibilitychange', ask);
  if (asking) return void (again = true);
  asking = true;
  let wait = 2000;
  if (!document.hidden && element.offsetParent) {
    try {
      const known = chosen;  // both at once: after a reload the curve comes with the list
      const [said] = await Promise.all([get('api/jobs'), known && fetchRun(known)]);
      jobs = said.jobs, deleted = said.deleted ?? [];
      const ids = jobs.map((j) => j.id);
      if (leaving && !ids.includes(leaving.id)) bring(leaving.id, leaving.name), leaving = null;  // it is gone indeed
      const fresh = seen && jobs.find((j) => !seen.has(j.id));
      seen = new Set(ids);
      if (fresh) choose(fresh.id), clicks = {};
      if (!ids.includes(chosen)) choose((jobs.find((j) => j.live) ?? jobs[0])?.id ?? '');
      if (chosen && chosen !== known) await fetchRun(chosen);
      if (other && (!runs[other] || runs[other].job?.live)) await fetchRun(other);
      $('offline').hidden = true;
      drawList();
      drawChosen();
      if (jobs.some((j) => j.live)) wait = 1000;
    } catch { $('offline').hidden = false; }
  } else wait = 500;
  asking = false;
  timer = setTimeout(ask, again ? 0 : wait);
  again = false;
};
element.addEventListener('click', (event) => {
  const row = event.target.closest('button.job');
  if (row) { choose(row.dataset.id); drawList(); drawChosen(); return void ask(); }
  const it = event.target.closest('button[data-act]');
  if (!it) return;
  const { act, id, step = '', keep = '', to = '' } = it.dataset, name = runs[id]?.job?.name ?? '';
  if (act === 'card') return void Object.assign(document.createElement('a'), { href: new URL(`api/jobs/${encodeURIComponent(id)}/card`, document.baseURI), download: id + '.md' }).click();
  let text = '';
  if (act === 'rename' && !(text = prompt('Call this training:', name))) return;
  if (act === 'save' && !(text = prompt('Save the adapter as:', name))) return;
  if (act === 'merge' && !(text = prompt('Make a whole model of the base and the adapter, called:', name))) return;
  // One job, however often it is pressed until that job is in the list.
  if (act === 'again') text = clicks[id] ??= Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
  if (act === 'undo') $('gone').hidden = true;
  if (act === 'delete') leaving = { id, name };
  it.disabled = true;
  setTimeout(() => { it.disabled = false; }, 1500);
  trigger(act === 'merge' ? 'merge' : 'act', { act, id, step, keep, to, text });
  setTimeout(ask, 300);
});
$('what').replaceChildren(...Object.entries(SHOWN).map(([value, text]) => new Option(text, value)));
$('what').onchange = drawChosen;
$('against').onchange = async (event) => { other = event.target.value; if (other && !runs[other]) await fetchRun(other).catch(() => {}); drawChosen(); };
document.addEventListener('visibilitychange', ask);
addEventListener('werkbank:jobs', function changed() { element.isConnected ? ask() : removeEventListener('werkbank:jobs', changed); });
ask();
