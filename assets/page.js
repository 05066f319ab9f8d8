() => {
  // What an answer took stands inside its bubble, but copying is for the answer alone.
  const footer = /\n\n<span class="(usage|told [a-z]+|acts [a-z0-9 ]+|file)"[^]*$/;
  const clipboard = navigator.clipboard;
  if (clipboard) {
    const write = clipboard.writeText.bind(clipboard);
    // webui/chat/markdown.py writes a < that would begin a tag as its number.
    clipboard.writeText = (text) => write(text.replace(footer, '').replaceAll('&#60;', '<'));
  }
  // A press on a button counts, too, where the page moved it away under a hand that did not move:
  // the browser would send the click to whatever both places have in common.
  let press = {};
  addEventListener('pointerdown', (event) => {
    press = { button: event.target.closest?.('button'), x: event.clientX, y: event.clientY };
  }, true);
  addEventListener('pointerup', (event) => {
    const { button, x, y } = press;
    press = {};
    if (!button?.isConnected || button.disabled || button.contains(event.target)) return;
    if (Math.hypot(event.clientX - x, event.clientY - y) < 4) button.click();
  }, true);
}
