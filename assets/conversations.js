// The list of conversations: one listener for all rows, since they are redrawn, and one menu for
// all of them, which lies outside the list, so that a redraw does not take a name that is typed.
const menu = document.createElement('div');
menu.className = 'conversation-menu';
menu.popover = 'auto';
menu.setAttribute('aria-label', 'Conversation');
menu.innerHTML = `<form><input aria-label="Title" maxlength="80"><button>Rename</button></form>
  <button data-act="pin"></button><a data-kind="md" download>Save as Markdown</a>
  <a data-kind="json" download>Save as JSON</a><button data-act="delete">Delete</button>`;
(element.closest('.gradio-container') ?? document.body).append(menu);
const part = (query) => menu.querySelector(query);
let id = '', opened = false;
const rowOf = () => [...element.querySelectorAll('[data-row]')].find((row) => row.dataset.row === id);
const close = () => {
  menu.hidePopover();
  rowOf()?.querySelector('.menu')?.focus();
};
const open = (row, rename) => {
  id = row.dataset.row;
  part('input').value = row.dataset.title;
  const pinned = row.dataset.pinned === '1';
  Object.assign(part('[data-act=pin], [data-act=unpin]'), { textContent: pinned ? 'Unpin' : 'Pin' }).dataset.act = pinned ? 'unpin' : 'pin';
  for (const link of menu.querySelectorAll('a')) link.href = `/export/${id}.${link.dataset.kind}`;
  menu.showPopover();
  const box = row.getBoundingClientRect();
  menu.style.width = Math.max(box.width, 210) + 'px';
  menu.style.left = Math.max(4, Math.min(box.left, innerWidth - menu.offsetWidth - 4)) + 'px';
  menu.style.top = Math.max(4, Math.min(box.top, innerHeight - menu.offsetHeight - 4)) + 'px';
  if (rename) part('input').select();
  else part('[data-act]').focus();
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  const { id: which, menu: of, act, title } = button.dataset;
  if (of) open(button.closest('[data-row]'));
  else if (act === 'further') trigger('further');
  else if (act === 'erase' && !confirm(`Erase “${title || 'New chat'}” for good?`)) return;
  else if (act) trigger('act', { act, id: which });
  else if (which) trigger('select', { id: which });
});
element.addEventListener('dblclick', (event) => {
  const row = event.target.closest('[data-row]');
  if (row) open(row, true);
});
element.addEventListener('keydown', (event) => {
  const row = event.target.closest('[data-row]');
  if (row && event.key === 'F2') open(row, true);
  if (row && event.key === 'Delete') trigger('act', { act: 'delete', id: row.dataset.row });
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.matches('.open')) return;
  const all = [...element.querySelectorAll('.open')];
  all[all.indexOf(event.target) + step]?.focus();
  event.preventDefault();
});
menu.addEventListener('click', (event) => {
  const chosen = event.target.closest('[data-act], a');
  if (!chosen) return;
  if (chosen.dataset.act) trigger('act', { act: chosen.dataset.act, id });
  close();
});
menu.addEventListener('submit', (event) => {
  event.preventDefault();
  trigger('act', { act: 'rename', id, title: part('input').value });
  close();
});
menu.addEventListener('keydown', (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const all = [...menu.querySelectorAll('input, button, a')];
  all[all.indexOf(document.activeElement) + step]?.focus();
  event.preventDefault();
});
// What was deleted stays unfolded when the list is redrawn.
element.addEventListener('toggle', (event) => {
  if (!event.target.matches('.deleted')) return;
  opened = event.target.open;
  if (opened) event.target.scrollIntoView({ block: 'nearest' });
}, true);
watch('value', () => {
  const fold = element.querySelector('.deleted');
  if (fold) fold.open = opened;
});
