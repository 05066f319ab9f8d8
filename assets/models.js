// The list of models: one listener for all buttons, and the state of downloads asked for once a
// second while the list can be seen (every three seconds where nothing moves). What a model or the
// hub says comes from the server as escaped HTML of one cell.
let stamp = '', timer = 0, begun = '';
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (!button) return;
  const of = button.closest('[data-name]'), { act, choice = '', id = '' } = button.dataset;
  const { key = '', name = '', title = name } = of?.dataset ?? {};
  if (act === 'delete' && !confirm(`Delete “${title}” from this disk?\nWhat can be downloaded can be downloaded again.`)) return;
  if (act === 'cancel' && !confirm(`Cancel the download of “${title}”?\nWhat has come of it is deleted. Pause keeps it.`)) return;
  if (act === 'download') begun = name;  // its row moves up, to what is coming
  button.disabled = true;
  setTimeout(() => { button.disabled = false; }, 3000);
  trigger(act === 'convert' ? 'convert' : 'act', { act, key, name, choice, id });
});
const ask = async () => {
  clearTimeout(timer);
  if (!element.isConnected) return document.removeEventListener('visibilitychange', ask);
  let wait = 3000;
  if (!document.hidden && element.offsetParent) {
    try {
      const url = new URL('api/models', document.baseURI);
      const answer = await fetch(url, { cache: 'no-store', signal: AbortSignal.timeout(5000) });
      const { stamp: newest, states } = await answer.json();
      for (const row of element.querySelectorAll('[data-name]')) {
        const html = states[row.dataset.name], cell = row.querySelector('.state');
        // A button that is held down or focused is not taken away under the finger.
        if (html && cell && html !== cell.dataset.shown) {
          if (row.querySelector('.state .bar i') && html.includes('<i')) update(cell, html);
          else cell.innerHTML = html;
          cell.dataset.shown = html;
        }
      }
      if (Object.keys(states).length) wait = 1000;
      if (stamp && stamp !== newest) trigger('changed');
      stamp = newest;
    } catch {}  // the strip on top says that the server does not answer
  }
  timer = setTimeout(ask, wait);
};
// Only the numbers and the bar of one that goes on: its buttons stay the same nodes.
const update = (cell, html) => {
  const fresh = document.createElement('div');
  fresh.innerHTML = html;
  const acts = (node) => [...node.querySelectorAll('[data-act]')].map((b) => b.dataset.act + b.dataset.id).join();
  if (acts(fresh) !== acts(cell) || !cell.querySelector('.size') || !fresh.querySelector('.size')) {
    cell.innerHTML = html;
    return;
  }
  cell.querySelector('.size').textContent = fresh.querySelector('.size').textContent;
  cell.querySelector('.bar').className = fresh.querySelector('.bar').className;
  cell.querySelector('.bar i').style.width = fresh.querySelector('.bar i').style.width;
};
document.addEventListener('visibilitychange', ask);
watch('value', () => {
  clearTimeout(timer);
  timer = setTimeout(ask, 300);
  element.querySelector('.ask')?.scrollIntoView({ block: 'nearest' });
  const moved = begun && element.querySelector(`[data-name="${CSS.escape(begun)}"]:has(.bar, [data-act=cancel])`);
  if (moved) moved.scrollIntoView({ block: 'center' }), begun = '';
});
ask();
