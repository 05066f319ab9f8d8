// The buttons under "does not fit". The status line is drawn anew, so one listener hears them all.
const status = element.querySelector('[data-of]').dataset.of;
document.addEventListener('click', (event) => {
  const button = event.target.closest?.('button.fit-set');
  if (!element.isConnected || !button?.closest('#' + status)) return;
  trigger('select', { set: button.dataset.set });
});
