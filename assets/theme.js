// The theme, before Gradio settles it: what this browser remembers stands in the address as Gradio
// reads it. The page's own load tells what the settings say (webui/settings_panel.py).
{
  const apply = (theme) => {
    const dark = theme === 'dark' || (theme !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches);
    document.body?.classList.toggle('dark', dark);
  };
  let theme = localStorage.getItem('werkbank.theme') ?? 'system';
  window.werkbankTheme = (wanted) => {
    theme = wanted;
    localStorage.setItem('werkbank.theme', wanted);
    address(wanted);
    apply(wanted);
  };
  const address = (wanted) => {
    const url = new URL(location);
    if (wanted === 'system') url.searchParams.delete('__theme');
    else url.searchParams.set('__theme', wanted);
    if (url.href !== location.href) history.replaceState(history.state, '', url);
  };
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => setTimeout(() => apply(theme)));
  if (theme !== 'system') address(theme);
}
