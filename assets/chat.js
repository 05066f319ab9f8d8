// The buttons under messages and the keyboard of the Chat tab. Runs inside gr.HTML, which hands it
// `element` and `trigger`. One listener for all buttons, since the log is drawn anew with every word.
const key = element.querySelector('[data-key]').dataset.key;
const named = (node, start) => [...node.classList].find((c) => c.startsWith(start))?.slice(start.length);
const shown = (id) => [...document.querySelectorAll(id)].find((b) => b.offsetParent && !b.disabled);

document.addEventListener('click', (event) => {
  const button = event.target.closest?.('button.act');
  if (!element.isConnected || !button?.closest('.' + key)) return;  // a model's own, perhaps
  event.preventDefault();
  trigger('select', { act: named(button, 'act-'), id: named(button, 'm-') });
});

// Escape stops, or leaves an edit; Alt+N begins a conversation; ↑ in an empty box edits what was
// said last.
document.addEventListener('keydown', (event) => {
  const box = document.querySelector('#chat-box textarea');
  if (!element.isConnected || !box?.offsetParent) return;
  if (event.key === 'Escape') (shown('#chat-stop') || shown('#chat-edit-cancel'))?.click();
  else if (event.altKey && event.code === 'KeyN') {
    event.preventDefault();
    shown('#chat-new')?.click();
    box.focus();
  } else if (event.key === 'ArrowUp' && event.target === box && !box.value) {
    const edits = [...document.querySelectorAll(`#chat-log .user .${key} .act-edit`)];
    if (edits.length) event.preventDefault();
    edits.at(-1)?.click();
  }
});

// What was typed and not sent survives a reload: kept here, put back by the Chat tab's own load.
addEventListener('pagehide', () => {
  const typed = document.querySelector('#chat-box textarea')?.value;
  typed ? sessionStorage.setItem('werkbank.draft', typed) : sessionStorage.removeItem('werkbank.draft');
});

// On a phone the list lies below the conversation that it opens.
document.addEventListener('click', (event) => {
  if (element.isConnected && innerWidth <= 720 && event.target.closest?.('#conversations .open[data-id]'))
    document.querySelector('#chat-log')?.scrollIntoView({ block: 'start' });
});
