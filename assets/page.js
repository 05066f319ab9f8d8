() => {
  // What an answer took stands inside its bubble, but copying is for the answer alone.
  const footer = /\n\n<span class="(usage|told [a-z]+|acts [a-z0-9 ]+|file)"[^]*$/;
  const clipboard = navigator.clipboard;
  if (clipboard) {
    const write = clipboard.writeText.bind(clipboard);
    // webui/chat/markdown.py writes a < that would begin a tag as its number.
    clipboard.writeText = (text) => write(text.replace(footer, '').replaceAll('&#60;', '<'));
  }
}
